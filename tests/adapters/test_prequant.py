"""PreQuant: places, counts, frozen codes, adapters over one quantised base, exact merges into outliers."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from tests.adapters.models import WithConv1D, tiny_gpt2, tiny_llama
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

import ketune
from ketune import PreQuantConfig
from ketune.adapters import AdapterLayer, ConfigError, to_lora, update_matrices
from ketune.adapters.sparse_linear import sparse_linear
from ketune.quantization import (
    CodedLinear,
    QuantizationError,
    QuantizeConfig,
    TensorScheme,
    best_ratios,
    dequantize_,
    quantize_,
)

SHARE = 0.02
TARGETS = ["q_proj", "v_proj"]
IDS = torch.arange(18).view(2, 9) % 50


def quantized_llama(dtype=torch.float32, **fields):
    model = tiny_llama().eval()
    for parameter in model.parameters():  # not rotary frequencies, as when transformers loads a model
        parameter.data = parameter.data.to(dtype)
    return quantize_(model, QuantizeConfig(**{"scheme": "w3a16", "step": "convert", "outliers": SHARE, **fields}))


def adapt(model, **fields):
    return get_peft_model(
        model, PreQuantConfig(**{"task_type": "CAUSAL_LM", "target_modules": TARGETS, "share": SHARE, **fields})
    ).eval()


@torch.no_grad()
def logits(model, **kwargs):
    return model(IDS, **kwargs).logits


def layers_of(model):
    return [module for module in model.modules() if isinstance(module, AdapterLayer)]


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def train(model, steps=20, rate=1e-2):
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return losses


# ------------------------------------------------------------------------------------------------- counts and places


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    share=st.floats(1e-4, 1.0),
    n_outliers=st.one_of(st.none(), st.integers(1, 3000)),
)
def test_the_count_is_the_share_of_the_weight_or_the_number_asked_for(shape, share, n_outliers):
    config = PreQuantConfig(share=share, n_outliers=n_outliers, target_modules=["0"])
    entries = shape[0] * shape[1]
    expected = max(1, round(share * entries)) if n_outliers is None else min(n_outliers, entries)
    assert config.parameter_count(*shape) == expected
    model = get_peft_model(nn.Sequential(nn.Linear(*shape)), config)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    (layer,) = layers_of(model)
    index = layer.update_of("default").index
    assert index.dtype == torch.int32
    assert len(index.unique()) == expected
    assert int(index.min()) >= 0
    assert int(index.max()) < entries


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(40, 30)), WithConv1D])
@pytest.mark.parametrize("fields", [{}, {"bits": 3, "range": "minmax"}, {"outlier_rule": "magnitude"}])
def test_on_a_plain_layer_the_places_are_those_that_a_quantiser_would_move_farthest(make, fields):
    base = make()
    linear = next(module for module in base.modules() if hasattr(module, "weight"))
    with torch.no_grad():
        linear.weight.copy_(torch.distributions.StudentT(3.0).sample(linear.weight.shape))
    weight = linear.weight.detach() if isinstance(linear, nn.Linear) else linear.weight.detach().T
    model = get_peft_model(base, PreQuantConfig(target_modules=["0", "c_attn"], n_outliers=5, **fields))
    found = layers_of(model)[0].update_of("default").index
    # The quantiser as the specification writes it, row by row.
    bits = fields.get("bits", 4)
    ratio = best_ratios(weight, TensorScheme(bits)) if "range" not in fields else 1.0
    low, high = weight.amin(1, keepdim=True) * ratio, weight.amax(1, keepdim=True) * ratio
    step = (high - low) / (2**bits - 1)
    zero = (-low / step).round()
    error = (((weight / step).round() + zero).clamp(0, 2**bits - 1) - zero) * step - weight
    scores = weight.abs() if "outlier_rule" in fields else error.abs()
    assert set(found.tolist()) == set(scores.flatten().topk(5).indices.tolist())
    assert found.tolist() == sorted(found.tolist())


def test_on_a_base_that_keeps_outliers_the_same_entries_train():
    model = adapt(quantized_llama())
    for layer in layers_of(model):
        update, base = layer.update_of("default"), layer.get_base_layer()
        assert torch.equal(update.index, base.outlier_index)
        assert len(update.values) == round(SHARE * layer.in_features * layer.out_features)


def test_fewer_are_the_worst_of_the_bases_outliers_and_more_are_all_of_them_and_the_largest_others():
    base = quantized_llama()
    fewer, more = adapt(copy.deepcopy(base), n_outliers=4), adapt(copy.deepcopy(base), n_outliers=30)
    for small, large in zip(layers_of(fewer), layers_of(more)):
        coded = small.get_base_layer()
        kept, codes = coded.outlier_index.long(), coded.dequantize_codes().flatten()
        error = (coded.outlier_value - codes[kept]).abs()
        assert set(small.update_of("default").index.tolist()) == set(kept[error.topk(4).indices].tolist())
        places = set(large.update_of("default").index.tolist())
        others = places - set(kept.tolist())
        assert len(others) == 30 - len(kept)
        left_out = [i for i in range(len(codes)) if i not in places]
        assert codes[list(others)].abs().min() >= codes[left_out].abs().max()


def test_on_codes_without_outliers_the_largest_entries_train():
    model = adapt(quantized_llama(outliers=0.0), n_outliers=6)
    for layer in layers_of(model):
        sizes = layer.get_base_layer().dequantize().flatten().abs()
        index = layer.update_of("default").index.long()
        assert sizes[index].min() >= sizes[[i for i in range(len(sizes)) if i not in index.tolist()]].max()


def test_layers_can_have_numbers_of_their_own():
    model = adapt(tiny_llama(), size_pattern={"v_proj": 3})
    counts = {
        name.split(".")[-1]: len(m.update_of("default").values)
        for name, m in model.named_modules()
        if m in set(layers_of(model))
    }
    assert counts == {"q_proj": round(SHARE * 24 * 24), "v_proj": 3}


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("scheme", ["w3a16", "w4a8"])
def test_it_starts_exactly_at_the_quantised_model(dtype, autocast, scheme):
    base = quantized_llama(dtype, scheme=scheme)
    expected = logits(base)
    config = PreQuantConfig(task_type="CAUSAL_LM", share=SHARE)
    model = get_peft_model(base, config, autocast_adapter_dtype=autocast).eval()
    assert torch.equal(logits(model), expected)
    values = {p.dtype for p in model.parameters() if p.requires_grad}
    assert values == {torch.float32 if autocast else dtype}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_leaves_the_codes_and_all_else_of_the_base_as_they_were(dtype):
    base = quantized_llama(dtype)
    before = state(base)
    model = adapt(base)
    losses = train(model)
    assert losses[-1] < losses[0]
    after = {name.replace(".base_layer", ""): tensor for name, tensor in model.get_base_model().state_dict().items()}
    assert any("codes" in name for name in before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    for layer in layers_of(model):
        assert (layer.update_of("default").values != 0).all()


def test_training_the_outliers_undoes_part_of_what_quantising_did():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(48, 32))
    with torch.no_grad():
        plain[0].weight.copy_(torch.distributions.StudentT(3.0).sample((32, 48)))
    prepared = copy.deepcopy(plain)
    from ketune.quantization.prepare import prepare_

    prepare_(prepared, QuantizeConfig("w3a16", range="mse"))
    coded = nn.Sequential(CodedLinear.from_quantized(prepared[0], 77))
    x = torch.randn(256, 6) @ torch.randn(6, 48)  # correlated, so that one entry can make up for others
    target = plain(x).detach()
    model = get_peft_model(coded, PreQuantConfig(target_modules=["0"], n_outliers=77))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    errors = []
    for _ in range(60):
        loss = F.mse_loss(model(x), target)
        errors.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert errors[-1] < 0.95 * errors[0]


@settings(deadline=None)
@given(rows=st.integers(1, 5), out_features=st.integers(1, 9), in_features=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_gradient_is_that_of_the_dense_matrix_at_the_entries(rows, out_features, in_features, seed):
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(1, out_features * in_features + 1, (), generator=generator))
    index = torch.randperm(out_features * in_features, generator=generator)[:n].to(torch.int32)
    draw = {"dtype": torch.float64, "generator": generator}
    x = torch.randn(2, rows, in_features, requires_grad=True, **draw)
    values = torch.randn(n, requires_grad=True, **draw)
    dense = torch.zeros(out_features * in_features, dtype=torch.float64)
    dense[index.long()] = values.detach()
    dense = dense.view(out_features, in_features).requires_grad_()
    weight = torch.randn(2, rows, out_features, **draw)
    ours = torch.autograd.grad((sparse_linear(x, values, index, out_features) * weight).sum(), (x, values))
    theirs = torch.autograd.grad((F.linear(x, dense) * weight).sum(), (x, dense))
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1].flatten()[index.long()])


def test_derivatives_of_second_order_and_of_each_sample_are_right():
    x, values = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.randn(6, dtype=torch.float64)
    index = torch.randperm(20)[:6].to(torch.int32)
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v: sparse_linear(x, v, index, 4), (x, values))
    assert torch.autograd.gradgradcheck(lambda x, v: sparse_linear(x, v, index, 4), (x, values))
    of_sample = torch.func.grad(lambda v, row: sparse_linear(row[None], v, index, 4).square().sum())
    each = torch.func.vmap(of_sample, (None, 0))(values.detach(), x.detach())
    expected = [of_sample(values.detach(), row) for row in x.detach()]
    torch.testing.assert_close(each, torch.stack(expected))


def test_nothing_of_the_size_of_the_weight_is_kept_for_the_way_back():
    x, values = torch.randn(3, 64, requires_grad=True), torch.randn(20, requires_grad=True)
    index = torch.randperm(64 * 48)[:20].to(torch.int32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        sparse_linear(x, values, index, 48).sum().backward()
    assert kept
    assert max(kept) <= x.numel()


# ---------------------------------------------------------------------------------------------------- several adapters


def test_two_adapters_share_one_quantised_base_and_change_nothing_of_each_other():
    base = quantized_llama()
    expected, before = logits(base), state(base)
    model = adapt(base, init_weights=False)
    model.add_adapter("other", PreQuantConfig(task_type="CAUSAL_LM", target_modules=TARGETS, n_outliers=5))
    first = logits(model)
    model.set_adapter("other")
    assert torch.equal(logits(model), expected)
    train(model, steps=5)
    second = logits(model)
    assert not torch.allclose(second, expected, atol=1e-4)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)
    rows = logits(model, adapter_names=["other", "default"])
    torch.testing.assert_close(rows, torch.stack([second[0], first[1]]), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model.unload()).items())


# ------------------------------------------------------------------------------------------------------ saving, loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_and_adapter_come_back_from_their_folders(dtype, tmp_path):
    quantized_llama(dtype, range="mse").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    model = adapt(base)
    train(model, steps=3)
    expected = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size < 8 * sum(p.numel() for p in model.parameters() if p.requires_grad) + 1500  # a place and a value each
    assert torch.equal(logits(ketune.load(tmp_path / "adapter", dtype=dtype).eval()), expected)
    for low_memory in (False, True):
        fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
        loaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter", low_cpu_mem_usage=low_memory).eval()
        if low_memory and dtype == torch.bfloat16:  # PEFT brings any adapter to the base's dtype on this way
            torch.testing.assert_close(logits(loaded), expected, atol=4e-3, rtol=0)
        else:
            assert torch.equal(logits(loaded), expected)


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_places_are_those_of_the_file_whatever_the_base_is(low_memory, tmp_path):
    model = adapt(tiny_llama(), init_weights=False)
    model.save_pretrained(tmp_path)
    torch.manual_seed(7)
    other = tiny_llama()
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.1)
    loaded = PeftModel.from_pretrained(other, tmp_path, low_cpu_mem_usage=low_memory)
    for ours, theirs in zip(layers_of(model), layers_of(loaded)):
        assert torch.equal(ours.update_of("default").index, theirs.update_of("default").index)
    fresh = adapt(copy.deepcopy(loaded.unload()))
    assert any(
        not torch.equal(ours.update_of("default").index, theirs.update_of("default").index)
        for ours, theirs in zip(layers_of(model), layers_of(fresh))
    )


def test_other_ways_to_find_outliers_are_the_same_function_and_swap(tmp_path):
    adapt(tiny_llama(), init_weights=False, outlier_rule="magnitude", bits=3).save_pretrained(tmp_path)
    expected = logits(PeftModel.from_pretrained(tiny_llama(), tmp_path).eval())
    model = adapt(tiny_llama(), init_weights=False)
    ketune.hotswap(model, tmp_path)
    assert torch.equal(logits(model), expected)


# -------------------------------------------------------------------------------------------------------------- merging


@pytest.mark.parametrize("scheme", ["w3a16", "w4a8"])
def test_it_merges_into_the_outliers_of_the_base_and_the_result_is_saved_as_codes(scheme, tmp_path):
    base = quantized_llama(scheme=scheme)
    before = state(base)
    model = adapt(base)
    train(model, steps=5)
    with torch.no_grad():
        apart = logits(model)
        model.merge_adapter()
        torch.testing.assert_close(logits(model), apart, atol=1e-5, rtol=1e-4)
        changed = {
            name.replace(".base_layer", "")
            for name, tensor in model.get_base_model().state_dict().items()
            if (key := name.replace(".base_layer", "")) in before and not torch.equal(tensor, before[key])
        }
        assert len(changed) == 4
        assert all(name.endswith("outlier_value") for name in changed)
        model.unmerge_adapter()
        assert torch.equal(logits(model), apart)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), apart, atol=1e-5, rtol=1e-4)
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded.eval()), logits(merged))


def test_a_merge_into_bfloat16_outliers_is_rounded_once_and_comes_apart_bit_for_bit():
    base = quantized_llama(torch.bfloat16)
    before = state(base)
    model = adapt(base, init_weights=False)
    for layer in layers_of(model):
        update, coded = layer.update_of("default"), layer.get_base_layer()
        expected = (coded.outlier_value.float() + update.values).bfloat16()
        layer.merge()
        assert torch.equal(coded.outlier_value, expected)
        layer.unmerge()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model.unload()).items())


@pytest.mark.parametrize("fields", [{"outliers": 0.0}, {"outliers": 0.01}])
def test_entries_that_the_base_does_not_keep_cannot_be_merged_and_nothing_changes(fields):
    base = quantized_llama(**fields)
    before = state(base)
    model = adapt(base, init_weights=False)
    expected = logits(model)
    with pytest.raises(QuantizationError, match=r"packed codes.*dequantize_\(model\) first"):
        model.merge_adapter()
    assert torch.equal(logits(model), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model.unload()).items())


def test_what_the_codes_stand_for_takes_every_merge():
    model = adapt(dequantize_(quantized_llama(outliers=0.0)), init_weights=False)
    expected = logits(model)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, atol=1e-5, rtol=1e-4)


class Reversed(nn.Module):
    """An orthonormal map of the last axis."""

    def forward(self, x):
        return x.flip(-1)

    inverse = forward


def test_on_a_layer_that_rotates_its_inputs_the_entries_are_those_of_the_stored_weight(tmp_path):
    base = quantized_llama(scheme="w4a8")
    for module in base.modules():
        if isinstance(module, CodedLinear):
            module.input_rotation = Reversed()
    for stored in (copy.deepcopy(base), dequantize_(base)):
        model = adapt(stored, init_weights=False)
        apart = logits(model)
        with pytest.raises(ConfigError, match="inputs that the quantised layer has rotated"):
            to_lora(model, tmp_path / "lora")
        torch.testing.assert_close(logits(model.merge_and_unload()), apart, atol=1e-5, rtol=1e-4)


def test_the_update_as_a_matrix_has_the_values_at_the_places():
    for make in (tiny_llama, tiny_gpt2):
        targets = TARGETS if make is tiny_llama else ["c_attn"]
        model = adapt(make(), init_weights=False, target_modules=targets)
        for layer, matrix in zip(layers_of(model), update_matrices(model).values()):
            update = layer.update_of("default")
            assert matrix.shape == (layer.out_features, layer.in_features)
            assert torch.equal(matrix.flatten()[update.index.long()], update.values)
            assert int((matrix != 0).sum()) == len(update.values)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 0.0}, r"share=0\.0\): must be above 0 and at most 1"),
        ({"share": 1.5}, r"share=1\.5\): must be above 0 and at most 1"),
        ({"n_outliers": 0}, r"n_outliers=0\): must be at least 1"),
        ({"outlier_rule": "errors"}, r"outlier_rule='errors'\): choose one of .* \(did you mean 'error'\?\)"),
        ({"bits": 9}, r"bits=9\): must be from 1 to 8"),
        ({"range": "max"}, r"range='max'\): choose one of 'minmax', 'mse'"),
    ],
)
def test_bad_values_are_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        PreQuantConfig(**fields)


def test_a_weight_with_more_entries_than_places_can_name_is_refused():
    with torch.device("meta"), pytest.raises(ConfigError, match="has more entries than the 32-bit places"):
        PreQuantConfig(n_outliers=3).make_update(1 << 16, (1 << 15) + 1)
