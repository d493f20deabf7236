"""Adapters on models that are spread over processes: FSDP2, FSDP1, and what DeepSpeed's ZeRO-3 asks for.

DeepSpeed is not installed here. With ZeRO-3 accelerate gathers the whole state dict and hands it to `save_pretrained`,
so what matters on our side is that the right entries are taken from a given dict, and that every parameter is there and
has entries before training starts.
"""

import pytest
import torch
from peft import get_peft_model
from peft.utils import get_peft_model_state_dict
from tests.adapters.sharded_worker import KINDS, WITH_EXPERTS, WORLD, adapted, batch, main
from tests.adapters.test_base import CONFIGS
from torch import multiprocessing, nn

SLOW = pytest.mark.slow
SOME = ["sora", "qaa", "qtha", "quanta", "quantum_peft", "quic", "compass circuits", "qpa", "qpa dora", *WITH_EXPERTS]
every_kind = pytest.mark.parametrize("kind", KINDS)


def found_by_processes(folder, way, kinds):
    multiprocessing.spawn(main, (str(folder), way, kinds), nprocs=WORLD)
    return {kind: (folder / f"{kind}.txt").read_text() for kind in kinds}


@SLOW
def test_every_adapter_trains_under_fsdp2_as_in_one_process_and_saves_all_of_it(tmp_path):
    """A step on two processes with a half of each tensor, then the gathered state dict, then loading without FSDP."""
    assert found_by_processes(tmp_path, "FSDP2", KINDS) == dict.fromkeys(KINDS, "fine")


@SLOW
def test_fsdp1_works_with_the_policy_of_peft_and_original_parameters(tmp_path):
    assert found_by_processes(tmp_path, "FSDP1", SOME) == dict.fromkeys(SOME, "fine")


@SLOW
def test_fsdp1_with_flat_parameters_refuses_and_says_why(tmp_path):
    """PEFT's policy puts modules with a trained `weight` into flat parameters of their own; our updates are no such."""
    (found,) = found_by_processes(tmp_path, "FSDP1, flat parameters", ["sora"]).values()
    assert "uniform `requires_grad` when `use_orig_params=False`" in found


@every_kind
def test_a_state_dict_that_is_given_is_saved_and_not_the_models_own(kind):
    model = adapted(kind)
    own = get_peft_model_state_dict(model)
    given = {name: torch.full_like(tensor, 7) for name, tensor in model.state_dict().items()}
    taken = get_peft_model_state_dict(model, state_dict=given)
    assert taken.keys() == own.keys()
    assert all((tensor == 7).all() for tensor in taken.values())
    assert not any("base_layer" in name for name in taken if "_update." not in name)


@every_kind
def test_every_parameter_is_there_before_the_first_step_and_has_entries(kind):
    model = adapted(kind)
    before = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    buffers = {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}
    assert all(shape and min(shape) > 0 for shape in before.values())
    assert not any(isinstance(p, nn.parameter.UninitializedTensorMixin) for p in model.parameters())
    assert all(tensor.numel() for tensor in get_peft_model_state_dict(model).values())
    model(input_ids=batch(0), labels=batch(0)).loss.backward()
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == before
    assert {name: tuple(buffer.shape) for name, buffer in model.named_buffers()} == buffers
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


# A layer norm over one readout is always zero, which the config refuses.
@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "qaa restored"])
def test_layers_of_width_one_have_no_empty_parameters(kind):
    """Narrow layers leave circuits without angles and rotations without planes."""
    narrow = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 3))
    model = get_peft_model(narrow, CONFIGS[kind](target_modules=["0", "1"]))
    tensors = {**dict(model.named_parameters()), **get_peft_model_state_dict(model)}
    assert not [name for name, tensor in tensors.items() if not tensor.numel()]
