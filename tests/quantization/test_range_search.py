"""Ranges of least squared error."""

import pytest
import torch
from tests.quantization.models import make_model, tokens
from torch import nn

from ketune.quantization import (
    FixedClipping,
    LearnedClipping,
    QuantizationError,
    QuantizationScheme,
    QuantizeConfig,
    QuantizedLinear,
    TensorScheme,
    best_ratios,
    fake_quantize,
    quantize,
    quantize_,
    range_search,
    search_ranges_,
)

SCHEMES = [
    TensorScheme(4),
    TensorScheme(3, symmetric=True),
    TensorScheme(2, group_size=8),
    TensorScheme(4, symmetric=True, group_size=16, clip=0.9),
    TensorScheme(4, includes_zero=True),
]


def heavy_tailed(*shape):
    return torch.distributions.StudentT(3.0).sample(shape)


def squared_error(x, low, high, bits, symmetric):
    """Of one group, by the definition of the quantiser in float64."""
    x = x.double()
    if symmetric:
        step = max(abs(low), abs(high)) / (2 ** (bits - 1) - 1)
        codes = (x / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return float((codes * step - x).square().sum())
    step = (high - low) / (2**bits - 1)
    zero = round(-low / step)
    codes = ((x / step).round() + zero).clamp(0, 2**bits - 1)
    return float(((codes - zero) * step - x).square().sum())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_group_gets_the_ratio_of_the_grid_with_the_least_error(scheme):
    x = heavy_tailed(6, 32)
    found = best_ratios(x, scheme)
    groups = x.reshape(6, -1, scheme.size_of_groups(32))
    assert found.shape == groups.shape[:2]
    for row, ratios in zip(groups, found.tolist()):
        for group, ratio in zip(row, ratios):
            low, high = float(group.min()), float(group.max())
            if scheme.includes_zero:
                low, high = min(low, 0.0), max(high, 0.0)
            ends = {r: (low * r * scheme.clip, high * r * scheme.clip) for r in range_search.RATIOS}
            errors = {r: squared_error(group, *ends[r], scheme.bits, scheme.symmetric) for r in ends}
            nearest = min(errors, key=lambda r: abs(r - ratio))
            assert nearest == pytest.approx(ratio)
            assert errors[nearest] <= min(errors.values()) * (1 + 1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_error_is_below_that_of_the_whole_range_in_each_group(scheme):
    x = heavy_tailed(64, 64)
    clipped = fake_quantize(x, scheme, FixedClipping(best_ratios(x, scheme)))
    errors = [
        (y - x).square().reshape(64, -1, scheme.size_of_groups(64)).sum(-1) for y in (fake_quantize(x, scheme), clipped)
    ]
    assert (errors[1] <= errors[0] * (1 + 1e-5)).all()
    assert errors[1].sum() < 0.97 * errors[0].sum()


def test_pieces_of_bounded_size_give_what_the_whole_gives(monkeypatch):
    x = heavy_tailed(37, 24)
    whole = best_ratios(x, TensorScheme(4, group_size=8))
    monkeypatch.setattr(range_search, "_AT_ONCE", 100)
    assert torch.equal(best_ratios(x, TensorScheme(4, group_size=8)), whole)


def test_what_is_spread_evenly_keeps_its_whole_range_and_a_tail_is_cut():
    even, scheme = torch.linspace(-1, 1, 4096)[None], TensorScheme(4, symmetric=True)
    assert best_ratios(even, scheme).item() > 0.9
    tailed = torch.cat([even, torch.tensor([[3.0]])], 1)
    assert best_ratios(tailed, scheme).item() < 0.4


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_under_a_fixed_range_is_straight_through(masked):
    x = heavy_tailed(4, 16).requires_grad_()
    scheme = TensorScheme(4, masked=masked)
    clipping = FixedClipping(torch.full((4, 1), 0.4))
    weights = torch.randn(4, 16)
    (fake_quantize(x, scheme, clipping) * weights).sum().backward()
    if not masked:
        assert torch.equal(x.grad, weights)
        return
    codes = quantize(x, scheme, clipping).codes
    assert torch.equal(x.grad[(codes > 0) & (codes < 15)], weights[(codes > 0) & (codes < 15)])
    assert (x.grad == 0).any()


def test_learned_ranges_that_are_frozen_let_the_gradient_straight_through():
    x, weights = heavy_tailed(4, 16).requires_grad_(), torch.randn(4, 16)
    clipping = LearnedClipping(4).requires_grad_(False)
    y = fake_quantize(x, TensorScheme(4), clipping)
    (y * weights).sum().backward()
    assert torch.equal(x.grad, weights)
    assert torch.allclose(y, fake_quantize(x, TensorScheme(4), LearnedClipping(4)), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pretending_gives_what_the_codes_stand_for(dtype):
    x = heavy_tailed(8, 32).to(dtype)
    scheme = TensorScheme(4, group_size=8)
    clipping = FixedClipping(best_ratios(x, scheme))
    assert torch.equal(fake_quantize(x, scheme, clipping), quantize(x, scheme, clipping).dequantize(dtype))


def test_a_model_is_quantised_with_these_ranges_and_converted_to_the_same_bits():
    scheme = QuantizationScheme.parse("w3a16g8")
    plain, ids = make_model("llama"), tokens()
    expected = plain(ids).logits
    errors = {}
    for name in ("minmax", "mse"):
        model = make_model("llama")
        model.load_state_dict(plain.state_dict())
        quantize_(model, QuantizeConfig(scheme, range=name))
        layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
        assert layers
        assert all(isinstance(m.weight_quantizer.clipping, FixedClipping) == (name == "mse") for m in layers)
        prepared = model(ids).logits
        quantize_(model, QuantizeConfig(scheme, step="convert"))
        assert torch.equal(model(ids).logits, prepared)
        errors[name] = float((prepared - expected).detach().norm())
    assert errors["mse"] < errors["minmax"]


def test_ranges_are_searched_between_the_rotations():
    class Turn(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("matrix", torch.linalg.qr(torch.randn(32, 32))[0])

        def forward(self, x):
            return x @ self.matrix

    layer = QuantizedLinear(32, 8, scheme=QuantizationScheme.parse("w4a16"))
    with torch.no_grad():
        layer.weight.copy_(heavy_tailed(8, 32))
    search_ranges_(layer)
    plain = layer.weight_quantizer.clipping.ratio
    layer.input_rotation = Turn()
    search_ranges_(layer)
    turned = layer.weight_quantizer.clipping.ratio
    assert torch.equal(turned, best_ratios(layer.weight @ layer.input_rotation.matrix, TensorScheme(4)).flatten())
    assert not torch.equal(plain, turned)


def test_ranges_of_a_model_without_weights_have_the_right_shape():
    with torch.device("meta"):
        layer = QuantizedLinear(32, 8, scheme=QuantizationScheme.parse("w4a16g8"))
    search_ranges_(layer)
    assert layer.weight_quantizer.clipping.ratio.shape == (32,)
    assert layer.weight_quantizer.clipping.ratio.device.type == "meta"


@pytest.mark.parametrize("ratios", [(), (0.0, 1.0), (0.5, 1.1)])
def test_ratios_out_of_range_are_refused(ratios):
    with pytest.raises(QuantizationError, match="above 0 and at most 1"):
        best_ratios(torch.randn(2, 4), TensorScheme(4), ratios)


def test_other_ranges_than_those_prepared_are_refused_when_converting():
    model = quantize_(make_model("llama"), QuantizeConfig("w4a16"))
    with pytest.raises(QuantizationError, match=r"call ketune\.quantization\.search_ranges_"):
        quantize_(model, QuantizeConfig("w4a16", step="convert", range="mse"))
    quantize_(search_ranges_(model), QuantizeConfig("w4a16", step="convert", range="mse"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"range": "max"}, r"range='max'\): choose one of 'minmax', 'mse'"),
        ({"outlier_rule": "size"}, r"outlier_rule='size'\): choose one of 'error', 'magnitude'"),
        ({"outliers": 1.0}, r"outliers=1\.0\): must be a share, from 0 to below 1"),
        ({"scheme": "w16a8", "range": "mse"}, r"range='mse'\): the scheme leaves weights as they are"),
        ({"scheme": "w16a8", "outliers": 0.01}, r"outliers=0\.01\): the scheme leaves weights as they are"),
    ],
)
def test_bad_values_are_refused_by_name(fields, message):
    with pytest.raises(QuantizationError, match=message):
        QuantizeConfig(**{"scheme": "w4a16", **fields})
