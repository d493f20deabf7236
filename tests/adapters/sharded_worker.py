"""What each process of `test_sharded.py` does: it trains an adapted model of which it holds a part, and saves it."""

import copy
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from peft import PeftModel, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from tests.adapters.models import tiny_llama
from tests.adapters.test_base import CONFIGS
from tests.adapters.test_parameter_layer import config as config_with_parameters
from tests.adapters.test_parameter_layer import tiny_mixtral
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor

WORLD = 2
EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
WITH_EXPERTS = {"sora experts": "sora", "quic experts": "quic", "qpa experts": "qpa dora"}
KINDS = [*CONFIGS, *WITH_EXPERTS]


def batch(number: int) -> torch.Tensor:
    return torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(number))


def base(kind: str) -> nn.Module:
    return tiny_mixtral() if kind in WITH_EXPERTS else tiny_llama()


def adapted(kind: str, modules_to_save: tuple[str, ...] = ("lm_head",)) -> PeftModel:
    torch.manual_seed(1)
    common = {"task_type": "CAUSAL_LM", "init_weights": False, "modules_to_save": list(modules_to_save)}
    if kind in WITH_EXPERTS:
        config = config_with_parameters(WITH_EXPERTS[kind], **EXPERTS, **common)
    else:
        config = CONFIGS[kind](**common)
    return get_peft_model(base(kind), config)


def step(model: nn.Module, batches: list[torch.Tensor], rate: float) -> None:
    """One step of gradient descent on the mean loss."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    for ids in batches:
        (model(input_ids=ids, labels=ids).loss / len(batches)).backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()


def by_fsdp2(model: PeftModel) -> tuple[nn.Module, PeftModel]:
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return model, model


def by_fsdp1(model: PeftModel, use_orig_params: bool = True) -> tuple[nn.Module, PeftModel]:
    wrapped = FullyShardedDataParallel(
        model,
        auto_wrap_policy=fsdp_auto_wrap_policy(model),
        use_orig_params=use_orig_params,
        device_id=torch.device("cpu"),
    )
    return wrapped, model


def gather(model: nn.Module) -> dict[str, torch.Tensor]:
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def gather_from_fsdp1(model: nn.Module) -> dict[str, torch.Tensor]:
    """As PEFT advises. torch 2.13's full state dicts of FSDP1 crash on the CPU, without any adapter too."""
    with FullyShardedDataParallel.summon_full_params(model, writeback=False):
        state = model.module.state_dict()
        return {name.replace("_fsdp_wrapped_module.", ""): tensor.clone() for name, tensor in state.items()}


def check(kind: str, folder: Path, rank: int, shard=by_fsdp2, gathered=gather, **kwargs) -> str | None:
    """What is wrong with a sharded adapter of this kind; None for nothing, and on other ranks than the first."""
    whole = adapted(kind, **kwargs).eval()
    start = {
        name: parameter.detach().clone() for name, parameter in whole.named_parameters() if parameter.requires_grad
    }
    sharded, inner = shard(copy.deepcopy(whole))
    rate = 200.0 if kind.startswith("quic") else 0.05  # small rotations of small weights move the loss least
    step(sharded, [batch(rank)], rate)
    step(whole, [batch(other) for other in range(WORLD)], rate)
    ids = batch(99)
    with torch.no_grad():
        logits = sharded(input_ids=ids).logits
    state = gathered(sharded)
    if rank:
        return None
    for name, parameter in whole.state_dict().items():
        if name in start and not (error := step_error(state[name], parameter, start[name])) < 1e-3:
            return f"the step of {name} differs from that of one process by {error} of its size"
    inner.save_pretrained(folder, state_dict=state)
    loaded = PeftModel.from_pretrained(base(kind), folder).eval()
    with torch.no_grad():
        found, expected = loaded(input_ids=ids).logits, whole(input_ids=ids).logits
    for name, other in (("sharded", logits), ("unsharded", expected)):
        if not torch.allclose(found, other, atol=1e-5):
            return f"logits of the loaded and the {name} adapter differ by {float((found - other).abs().max())}"
    return None


def step_error(found: torch.Tensor, expected: torch.Tensor, start: torch.Tensor) -> float:
    """How far two steps from the same start differ, as a share of the second; not a number when there was none."""
    return float((found - expected).norm() / (expected - start).norm())


WAYS = {
    "FSDP2": check,
    # PEFT asks a module of `modules_to_save` for its own state dict, which crashes as said above.
    "FSDP1": partial(check, shard=by_fsdp1, gathered=gather_from_fsdp1, modules_to_save=()),
    "FSDP1, flat parameters": partial(check, shard=partial(by_fsdp1, use_orig_params=False)),
}


def main(rank: int, folder: str, way: str, kinds: list[str]) -> None:
    """Writes a file for each kind, with what is wrong in it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    try:
        for kind in kinds:
            try:
                wrong = WAYS[way](kind, Path(folder) / kind, rank)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            if not rank:
                (Path(folder) / f"{kind}.txt").write_text(wrong or "fine")
    finally:
        dist.destroy_process_group()
