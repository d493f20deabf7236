"""Adapters on parameters that are no linear layer's weight (`target_parameters`), for every method that is linear."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.adapters.models import TwoLayers
from tests.adapters.test_base import CONFIGS, MERGEABLE
from torch import nn
from torch.nn import functional as F
from transformers import MixtralConfig, MixtralForCausalLM

from ketune import CompassConfig, QAAConfig, QuicConfig, SoraConfig
from ketune.adapters import (
    check_targets,
    count_trainable,
    effective_ranks,
    export_plain,
    fit_budget,
    prune,
    update_matrices,
)
from ketune.adapters.config import ConfigError
from ketune.adapters.registry import METHODS

TARGETS = ["experts.up", "experts.down", "router.weight"]
every_method = pytest.mark.parametrize("kind", MERGEABLE)


class Experts(nn.Module):
    """Three experts 6 -> 8 -> 6, their weights in two parameters, stored as (experts, out, in) or transposed."""

    def __init__(self, is_transposed: bool = False) -> None:
        super().__init__()
        self.is_transposed = is_transposed
        up, down = torch.randn(3, 8, 6) / 3, torch.randn(3, 6, 8) / 3
        self.up = nn.Parameter(up.mT.contiguous() if is_transposed else up)
        self.down = nn.Parameter(down.mT.contiguous() if is_transposed else down)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x, mix):
        up, down = (w if self.is_transposed else w.mT for w in (self.up, self.down))
        each = torch.relu(x @ up) @ down * self.scale
        return torch.einsum("ben,be->bn", each.transpose(0, 1), mix)


class Router(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))

    def forward(self, x):
        return F.linear(x, self.weight).softmax(-1)


class Mixture(nn.Module):
    def __init__(self, is_transposed: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.experts, self.router = Experts(is_transposed), Router()
        self.to(dtype)

    def forward(self, x):
        x = self.first(x)
        return self.experts(x, self.router(x))


def config(kind, **kwargs):
    settings = {"target_modules": ["first"], "target_parameters": TARGETS, "init_weights": False}
    if kind.startswith("compass"):
        settings["frame"] = "random"
    return CONFIGS[kind](**{**settings, **kwargs})


def tiny_mixtral(dtype=torch.float32):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "vocab_size": 50, "num_local_experts": 3, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**sizes)).to(dtype)


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_training_starts_exactly_at_the_base_model_and_lowers_the_loss(kind, dtype, is_transposed):
    model, x = Mixture(is_transposed, dtype), torch.randn(16, 6, dtype=dtype)
    before, frozen = model(x), copy.deepcopy(model.state_dict())
    adapted = get_peft_model(model, config(kind, init_weights=True))
    assert torch.equal(adapted(x), before)
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    start = {n: p.detach().clone() for n, p in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=2e-3 if kind.startswith("qpa") else 0.02)
    target, losses = torch.randn(16, 6, dtype=dtype), []
    for _ in range(6):
        loss = F.mse_loss(adapted(x), target)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    assert all(not torch.equal(parameter, start[name]) for name, parameter in trained.items())
    for name, value in adapted.get_base_model().state_dict().items():
        if name.replace(".base_layer", "") in frozen:
            assert torch.equal(value, frozen[name.replace(".base_layer", "")])


@every_method
def test_every_expert_gets_its_own_update_and_the_sum_is_what_runs(kind):
    """The adapted module against the plain one, whose parameters hold W + delta with delta of `update_matrices`."""
    plain, x = Mixture(), torch.randn(5, 6)
    adapted = get_peft_model(copy.deepcopy(plain), config(kind))
    matrices = update_matrices(adapted)
    names = {f"experts.{p}.{e}" for p in ("up", "down") for e in range(3)} | {"first", "router.weight"}
    assert {name.removeprefix("base_model.model.") for name in matrices} == names
    with torch.no_grad():
        for name, matrix in matrices.items():
            match name.removeprefix("base_model.model.").split("."):
                case ["experts", parameter, number]:
                    getattr(plain.experts, parameter)[int(number)] += matrix
                case [module, *_]:
                    getattr(plain, module).weight += matrix
    ups = [matrices[f"base_model.model.experts.up.{e}"] for e in range(3)]
    assert not torch.allclose(ups[0], ups[1])
    assert torch.allclose(adapted(x), plain(x), atol=1e-5, rtol=1e-4)


@every_method
def test_counts_are_exact_from_the_shapes_and_from_the_config_alone(kind):
    adapted = get_peft_model(Mixture(), config(kind))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    shapes = [(6, 6), *[(8, 6)] * 3, *[(6, 8)] * 3, (6, 3)]
    assert adapted.peft_config["default"].model_parameter_count(shapes) == trained
    experts = config(kind, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"])
    with torch.device("meta"):
        empty = MixtralForCausalLM(tiny_mixtral().config)
    real = get_peft_model(tiny_mixtral(), copy.deepcopy(experts))
    assert count_trainable(empty, experts) == sum(p.numel() for p in real.parameters() if p.requires_grad)


def test_a_budget_is_filled_by_parameters_of_different_sizes():
    with torch.device("meta"):
        empty = MixtralForCausalLM(tiny_mixtral().config)
    targets = {"target_modules": [], "target_parameters": ["experts.down_proj"]}
    method = replace(METHODS["sora"], configure=lambda r: SoraConfig(r=r, **targets))
    sized = fit_budget(method, empty, 700)
    # One rank on three experts costs 3 (16 + 24 + 1) = 123 a layer: rank 2 on both, and one more on the first.
    assert sized.count == 5 * 123
    assert list(sized.config.size_pattern.values()) == [3]


@every_method
@torch.no_grad()
def test_saving_loading_a_second_adapter_and_deleting(kind, tmp_path):
    base, x = Mixture(), torch.randn(5, 6)
    before = base(x)
    adapted = get_peft_model(copy.deepcopy(base), config(kind))
    adapted.save_pretrained(tmp_path)
    for options in ({}, {"low_cpu_mem_usage": True}):
        loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path, **options)
        assert torch.equal(loaded(x), adapted(x))
    first = adapted(x)
    with adapted.disable_adapter():
        assert torch.equal(adapted(x), before)
    torch.manual_seed(7)
    adapted.add_adapter("second", config(kind))
    adapted.set_adapter("second")
    second = adapted(x)
    assert not torch.equal(second, first)
    assert {n for n, p in adapted.named_parameters() if p.requires_grad and "default" in n} == set()
    adapted.delete_adapter("default")
    assert torch.equal(adapted(x), second)
    assert not any("default" in name for name, _ in adapted.named_parameters())
    again = adapted.load_adapter(tmp_path, "default")
    assert not again.missing_keys or not any("_update" in key for key in again.missing_keys)
    adapted.set_adapter("default")
    assert torch.equal(adapted(x), first)


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_is_what_runs_and_unmerging_restores_the_bits(kind, dtype):
    base, x = Mixture(dtype=dtype), torch.randn(5, 6, dtype=dtype)
    weights = copy.deepcopy(base.state_dict())
    adapted = get_peft_model(base, config(kind, target_modules=[]))
    adapted.add_adapter("second", config(kind, target_modules=[]))
    adapted.base_model.set_adapter(["default", "second"])
    with torch.no_grad():
        apart = adapted(x)
        adapted.merge_adapter(safe_merge=True)
        assert torch.equal(adapted(x), apart)
        adapted.unmerge_adapter()
        assert torch.equal(adapted(x), apart)
        adapted.set_adapter("default")
        one = adapted(x)
        merged = adapted.merge_and_unload(safe_merge=True)
    assert type(merged.experts) is Experts
    assert type(merged.router) is Router
    assert not any(torch.equal(weights[name], merged.state_dict()[name]) for name in TARGETS)
    assert torch.equal(merged(x), one)
    with pytest.raises(AttributeError):
        merged.experts.base_layer  # noqa: B018


@every_method
def test_weighted_sums_add_up(kind):
    adapted = get_peft_model(Mixture(), config(kind))
    adapted.add_adapter("second", config(kind))
    adapted.base_model.add_weighted_adapter(["default", "second"], [0.5, -2.0], "sum")
    of = {name: update_matrices(adapted, name) for name in ("default", "second", "sum")}
    for name, matrix in of["sum"].items():
        assert torch.allclose(matrix, 0.5 * of["default"][name] - 2.0 * of["second"][name], atol=1e-5)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_sora_with_open_gates_equals_the_lora_of_peft(is_transposed):
    base, x = Mixture(is_transposed), torch.randn(5, 6)
    kwargs = {"target_modules": [], "target_parameters": TARGETS, "r": 2}
    lora = get_peft_model(copy.deepcopy(base), LoraConfig(lora_alpha=4, init_lora_weights=False, **kwargs))
    sora = get_peft_model(base, SoraConfig(alpha=4.0, gate_init="ones", **kwargs))
    theirs = {
        name: module
        for name, module in lora.named_modules()
        if type(module).__name__ == "ParamWrapper" and hasattr(module, "lora_A")
    }
    with torch.no_grad():
        for name, ours in sora.named_modules():
            if name not in theirs or type(ours).__name__ != "ParamWrapper":
                continue
            assert theirs[name].parameter_name == ours.parameter_name
            a, b = theirs[name].lora_A["default"].weight, theirs[name].lora_B["default"].weight
            update = ours.update_of("default")
            each = [update] if ours.n_experts is None else update.each()
            a, b = a.reshape(len(each), 2, -1), b.reshape(len(b), 2, len(each)).permute(2, 0, 1)
            for number, expert in enumerate(each):
                expert.a.copy_(a[number])
                expert.b.copy_(b[number])
    assert not torch.allclose(sora(x), sora.get_base_model().first(x))
    assert torch.allclose(sora(x), lora(x), atol=1e-5)


@every_method
def test_a_mixture_of_experts_trains_with_gradient_checkpointing_and_without(kind):
    ids, gradients = torch.randint(0, 50, (2, 9)), []
    targets = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = get_peft_model(tiny_mixtral(), config(kind, **targets))
        model.train()
        if checkpointing:
            model.enable_input_require_grads()
            model.get_base_model().activation_checkpointing_enable()
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        tolerance = max(1e-6, 1e-4 * gradient.abs().max().item())
        assert torch.allclose(gradient, gradients[1][name], atol=tolerance), name


@pytest.mark.parametrize(
    "kind",
    [
        "qaa amplitudes",
        "qtha trains",
        "sora",
        "quanta",
        "quantum_peft",
        "quic chained",
        "compass circuits",
        "prequant",
        "qpa dora",
    ],
)
def test_torch_compile_traces_forward_and_backward_without_graph_breaks(kind):
    torch._dynamo.reset()
    adapted, x = get_peft_model(Mixture(), config(kind)), torch.randn(4, 6)
    compiled = torch.compile(adapted, backend="aot_eager", fullgraph=True)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    ours, plain = compiled(x), adapted(x)
    assert torch.allclose(ours, plain, atol=1e-5)
    for one, two in zip(*(torch.autograd.grad(y.square().sum(), trained) for y in (ours, plain))):
        assert torch.allclose(one, two, atol=1e-4 * max(1.0, float(two.abs().max())))


def test_copies_and_pickles_work():
    adapted, x = get_peft_model(Mixture(), config("sora")), torch.randn(4, 6)
    for twin in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        assert torch.equal(twin(x), adapted(x))


def test_the_gates_of_experts_are_found_and_penalised():
    adapted = get_peft_model(Mixture(), config("sora", target_modules=[], sparse_lambda=5.0))
    assert len(effective_ranks(adapted)) == 3 + 3 + 1
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    optimizer = adapted.peft_config["default"].wrap_optimizer(optimizer, adapted, "default", 1)
    adapted(torch.randn(4, 6)).sum().mul(0).backward()
    optimizer.step()
    assert set(effective_ranks(adapted).values()) == {0}
    with pytest.raises(ConfigError, match="ranks that differ from expert to expert"):
        prune(adapted)


@pytest.mark.parametrize("kind", [k for k in CONFIGS if k not in MERGEABLE])
def test_an_update_that_is_not_linear_is_refused_with_the_reason(kind):
    with pytest.raises(ConfigError, match=r"'up' cannot be adapted: .*not linear in the layer's input; train with "):
        get_peft_model(Mixture(), CONFIGS[kind](target_modules=[], target_parameters=["experts.up"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoraConfig(target_parameters="experts.up"), "pass a list of names"),
        (lambda: SoraConfig(target_parameters=["experts.up"], dropout=0.1), "must be 0 with target_parameters"),
        (lambda: CompassConfig(target_parameters=["experts.up"]), r"frame='random'"),
        (lambda: QAAConfig(readout="amplitudes", init_angles="data", target_parameters=["experts.up"]), "uniform"),
        (lambda: SoraConfig(target_parameters=["experts.scale"]), r"shape \(6,\); only matrices"),
    ],
)
def test_what_a_sum_of_weights_cannot_do_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        get_peft_model(Mixture(), make())


def test_parameters_of_few_bits_are_refused():
    model = Mixture()
    model.experts.up = nn.Parameter(model.experts.up.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ConfigError, match="float8_e4m3fn; only floating point of 16 bits or more"):
        get_peft_model(model, config("sora", target_modules=[]))


def test_parameters_that_are_not_there_in_full_are_refused():
    partitioned, computed = Mixture(), Mixture()
    partitioned.experts.up.ds_shape = torch.Size((3, 8, 6))  # the mark of DeepSpeed's ZeRO-3
    with pytest.raises(ConfigError, match="partitioned by DeepSpeed ZeRO-3"):
        get_peft_model(partitioned, config("sora", target_modules=[]))
    nn.utils.parametrizations.weight_norm(computed.router)
    with pytest.raises(ConfigError, match="computed from another tensor"):
        get_peft_model(computed, config("sora", target_modules=[], target_parameters=["router.weight"]))


def test_rows_of_a_batch_with_adapters_of_their_own_are_refused():
    adapted = get_peft_model(Mixture(), config("sora")).eval()
    with pytest.raises(ValueError, match="one sum of weights serves all rows"):
        adapted(torch.randn(2, 6), adapter_names=["default", "__base__"])


def test_adapters_of_one_model_name_the_same_parameters():
    adapted = get_peft_model(Mixture(), config("sora"))
    with pytest.raises(ConfigError, match="have to name the same ones"):
        adapted.add_adapter("second", config("sora", target_parameters=["experts.up"]))
    both = get_peft_model(TwoLayers(), SoraConfig(target_modules=[], target_parameters=["lin0.weight"]))
    with pytest.raises(ConfigError, match="has an adapter on its parameter 'weight' already"):
        both.add_adapter("second", SoraConfig(target_modules=["lin0"]))


def test_the_weight_of_a_linear_layer_can_be_named_as_a_parameter():
    """The same function as beside the layer, from the same values."""
    base, x = TwoLayers(), torch.randn(4, 10)
    beside = get_peft_model(copy.deepcopy(base), QuicConfig(target_modules=["lin0"], init_weights=False))
    inside = get_peft_model(base, QuicConfig(target_modules=[], target_parameters=["lin0.weight"]))
    values = {name: p for name, p in beside.named_parameters() if p.requires_grad}
    inside.load_state_dict(values, strict=False)
    assert torch.allclose(inside(x), beside(x), atol=1e-5)


def test_there_is_no_plain_counterpart_of_generated_experts(tmp_path):
    with pytest.raises(ConfigError, match="target_parameters has no plain counterpart"):
        export_plain(get_peft_model(Mixture(), config("qpa")), tmp_path)


def test_names_of_parameters_that_match_nothing_are_refused_with_near_misses():
    check_targets(Mixture(), config("sora"))
    with pytest.raises(
        ConfigError, match=r"'experts\.upp': no such parameter .* did you mean 'experts\.down', 'experts\.up'"
    ):
        check_targets(Mixture(), config("sora", target_parameters=["experts.upp"]))
