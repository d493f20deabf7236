"""Updates as matrices, and targets that match nothing."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.adapters.models import TwoLayers, WithConv1D, tiny_llama

from ketune import QAAConfig, SoraConfig, update_matrices
from ketune.adapters import ConfigError, check_targets


@pytest.mark.parametrize("model_cls", [TwoLayers, WithConv1D])
@pytest.mark.parametrize(
    "make",
    [
        lambda t: SoraConfig(target_modules=t, init_weights=False),
        lambda t: QAAConfig(readout="amplitudes", target_modules=t, init_weights=False),
        lambda t: LoraConfig(target_modules=t, init_lora_weights=False, fan_in_fan_out=t == ["c_attn"]),
    ],
)
def test_the_matrix_maps_inputs_to_the_change_of_outputs(model_cls, make):
    target = "c_attn" if model_cls is WithConv1D else "lin0"
    model = get_peft_model(model_cls(), make([target]))
    layer = model.base_model.model.get_submodule(target)
    x = torch.randn(3, layer.in_features)
    matrices = update_matrices(model)
    assert list(matrices) == [f"base_model.model.{target}"]
    change = layer(x) - layer.base_layer(x)
    assert torch.allclose(x @ next(iter(matrices.values())).T, change, atol=1e-4)


def test_updates_that_are_not_linear_have_no_matrix():
    assert update_matrices(get_peft_model(TwoLayers(), QAAConfig(target_modules=["lin0"]))) == {}


def test_targets_without_a_match_are_named_with_near_misses():
    with pytest.raises(ConfigError, match=r"'q_prj': no such layer in the model; did you mean .*'q_proj'") as caught:
        check_targets(tiny_llama(), QAAConfig(target_modules=["q_prj", "v_proj"]))
    assert "\n" not in str(caught.value)
    check_targets(tiny_llama(), QAAConfig(target_modules=["q_proj", "model.layers.0.mlp.up_proj"]))
    check_targets(tiny_llama(), QAAConfig())
