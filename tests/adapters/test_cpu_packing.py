"""The layout of bitsandbytes' CPU kernel: what a layer that has evaluated once still gives out, and to whom."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.adapters.test_base import CONFIGS, MERGEABLE
from torch import nn

from ketune import load, to_lora
from ketune.adapters import update_matrices
from ketune.adapters.cpu_packing import guard_packing_, is_packed, packed_weight, unpack_

pytestmark = pytest.mark.slow

bnb = pytest.importorskip("bitsandbytes", exc_type=ImportError)
if not bnb.functional.has_avx512bf16():
    pytest.skip("this CPU has no AVX512-BF16, so bitsandbytes leaves the layout alone", allow_module_level=True)

IN, OUT = 128, 96
STEP = 2**-8
"""The rounding of the steps to bfloat16, relative, and of the kernel's products."""
nested = pytest.mark.parametrize("nested", [False, True], ids=["plain steps", "quantised steps"])


def plain(width=IN, rows=OUT):
    """Rows of very different sizes, so that steps in a wrong order show."""
    torch.manual_seed(0)
    linear = nn.Linear(width, rows)
    linear.weight.data *= torch.logspace(-1, 1, rows)[:, None]
    return linear


def model_of(linear, nested):
    out_features, in_features = linear.weight.shape
    layer = bnb.nn.Linear4bit(
        in_features, out_features, quant_type="nf4", compute_dtype=torch.float32, compress_statistics=nested
    )
    layer.load_state_dict(linear.state_dict())
    model = nn.Sequential(layer).to("cpu")
    model.is_loaded_in_4bit = True  # where PEFT's LoRA looks
    return model


def rows(width=IN):
    return torch.randn(16, width, generator=torch.Generator().manual_seed(1))


def evaluate(model):
    with torch.no_grad():
        return model.eval()(rows())


def adapted(kind, nested):
    torch.manual_seed(2)
    return get_peft_model(model_of(plain(), nested), CONFIGS[kind](target_modules=["0"], init_weights=False))


def error(found, exact):
    found, exact = found.detach().float(), exact.detach().float()
    return float((found - exact).norm() / exact.norm())


@nested
def test_bitsandbytes_reads_such_a_weight_wrongly_and_we_do_not(nested):
    """If the first half fails, bitsandbytes has mended it and `cpu_packing` can go."""
    model, exact = model_of(plain(), nested), plain().weight.detach()
    layer = model[0]
    before = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert error(before, exact) < 0.1
    output = evaluate(model)
    assert is_packed(layer)
    assert error(bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state), exact) > 1
    if not nested:
        restored = copy.deepcopy(layer)
        restored.state_dict()  # puts the layout back
        assert error(bnb.functional.dequantize_4bit(restored.weight.data, restored.weight.quant_state), exact) > 0.5

    found = packed_weight(layer)
    assert is_packed(layer)
    assert error(found, before) < STEP
    assert error(found, exact) < 0.1
    assert error(output, rows() @ found.T + layer.bias) < STEP
    assert torch.equal(evaluate(model), output)  # reading has changed nothing


@nested
def test_unpacked_layers_are_read_and_saved_right_and_pack_again(nested):
    model = model_of(plain(), nested)
    output = evaluate(model)
    weight = packed_weight(model[0])
    assert unpack_(model) is model
    assert not is_packed(model[0])
    assert torch.equal(bnb.functional.dequantize_4bit(model[0].weight.data, model[0].weight.quant_state), weight)
    state = {name: tensor.clone() for name, tensor in model[0].state_dict().items()}
    stats = {name.removeprefix("weight."): t for name, t in state.items() if name.startswith("weight.")}
    saved = bnb.nn.Params4bit.from_prequantized(state["weight"], stats, device="cpu")
    assert torch.equal(bnb.functional.dequantize_4bit(saved.data, saved.quant_state), weight)
    assert torch.equal(evaluate(model), output)
    assert is_packed(model[0])


def test_other_layers_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(3, 4), nn.Conv1d(2, 2, 1))
    before = copy.deepcopy(model.state_dict())
    for change in (unpack_, guard_packing_):
        assert change(model) is model
    assert not any(is_packed(module) for module in (*model, None))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model)


@nested
@pytest.mark.parametrize("kind", MERGEABLE)
def test_merging_after_an_evaluation_is_as_near_as_before_one_and_comes_apart(kind, nested):
    merged = {}
    for first in ("merge", "evaluate"):
        model = adapted(kind, nested)
        layer = model.base_model.model[0]
        apart = model(rows()).detach()
        if first == "evaluate":
            assert error(evaluate(model), apart) < 2 * STEP
            assert is_packed(layer.get_base_layer())
        weight, output = layer.get_base_weight().clone(), evaluate(model) if first == "evaluate" else None
        model.merge_adapter()
        merged[first] = error(model.train()(rows()).detach(), apart)
        model.unmerge_adapter()
        assert torch.equal(layer.get_base_weight(), weight)
        if first == "evaluate":
            assert torch.equal(evaluate(model), output)
        else:
            assert torch.equal(model(rows()), apart)
    assert merged["evaluate"] < 0.2  # what quantising the sum costs
    assert merged["evaluate"] == pytest.approx(merged["merge"], rel=0.05, abs=2 * STEP)


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "qpa adapter"])
def test_an_evaluation_gives_what_training_saw(kind):
    """QPA as DoRA computes with the weight itself."""
    model = adapted(kind, nested=True)
    before = model.train()(rows()).detach()
    evaluate(model)
    assert is_packed(model.base_model.model[0].get_base_layer())
    assert error(evaluate(model), before) < 2 * STEP


@pytest.mark.parametrize("kind", ["sora", "qpa dora"])
def test_matrices_and_conversions_do_not_change_with_an_evaluation(kind, tmp_path):
    model = adapted(kind, nested=True)
    before, plain_before = update_matrices(model), model.base_model.model[0].plain_weight()
    conversion = to_lora(model, tmp_path / "before")
    evaluate(model)
    after = update_matrices(model)
    assert before.keys() == after.keys() != set()
    for name, matrix in before.items():
        assert error(after[name], matrix) < STEP
    assert error(model.base_model.model[0].plain_weight(), plain_before) < STEP
    assert to_lora(model, tmp_path / "after").ranks == conversion.ranks


@pytest.mark.parametrize("kind", ["sora", "lora"])
def test_gradients_pass_a_layer_that_has_evaluated(kind):
    """The kernel has no backward pass, and PyTorch only warns."""

    def gradients(model):
        x = rows().requires_grad_()
        y = model.train()(x * 1)
        y.square().sum().backward()
        return x.grad

    if kind == "lora":
        model = guard_packing_(get_peft_model(model_of(plain(), True), LoraConfig(target_modules=["0"])))
    else:
        model = adapted(kind, nested=True)
    before = gradients(model)
    evaluate(model)
    assert is_packed(model.base_model.model[0].get_base_layer())
    after = gradients(model)
    assert error(after, before) < 2 * STEP
    assert error(evaluate(model), model.train()(rows()).detach()) < 2 * STEP  # packed once more, and as good


@pytest.mark.parametrize(("width", "rows_of_weight"), [(96, 64), (64, 48)])
def test_shapes_that_the_kernel_cannot_take_evaluate_as_they_train(width, rows_of_weight):
    linear = plain(width, rows_of_weight)
    with pytest.raises((RuntimeError, AssertionError)), torch.no_grad():
        model_of(linear, True).eval()(rows(width))
    model = guard_packing_(model_of(linear, True)).eval()
    with torch.no_grad():
        assert torch.equal(model(rows(width)), model.train()(rows(width)))


def test_the_guard_is_set_once_and_copied_with_the_layer():
    model = copy.deepcopy(guard_packing_(guard_packing_(model_of(plain(), True))))
    assert len(model[0]._forward_pre_hooks) == 1
    evaluate(model)
    assert model.train()(rows().requires_grad_()).grad_fn is not None
    assert not is_packed(model[0])


def test_dora_of_peft_never_packs_and_its_lora_does(tmp_path):
    for use_dora in (True, False):
        torch.manual_seed(2)
        config = LoraConfig(target_modules=["0"], use_dora=use_dora, init_lora_weights=False)
        base = model_of(plain(), True)
        evaluate(base)  # packs before there is an adapter
        model = guard_packing_(get_peft_model(unpack_(base), config))
        expected = model.train()(rows()).detach()
        evaluate(model)
        assert is_packed(model.base_model.model[0].get_base_layer()) is not use_dora
        assert error(evaluate(model), expected) < 2 * STEP
        model.save_pretrained(tmp_path / str(use_dora))
        loaded = load(tmp_path / str(use_dora), model=model_of(plain(), True))
        assert error(evaluate(loaded), expected) < 2 * STEP
        assert error(evaluate(loaded), expected) < 2 * STEP
