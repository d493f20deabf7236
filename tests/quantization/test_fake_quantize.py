import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ketune.quantization import FakeQuantizer, LearnedClipping, QuantizationError, TensorScheme, fake_quantize, quantize

SCHEMES = [
    TensorScheme(4),
    TensorScheme(4, symmetric=True),
    TensorScheme(2, group_size=8, clip=0.9),
    TensorScheme(3, clip=0.95),
    TensorScheme(8, includes_zero=True),
    TensorScheme(4, masked=True, clip=0.7),
]


def roste_quantiser(x, bits, clip):
    """The quantiser as section 2.1 of the specification writes it, row by row."""
    low, high = clip * x.amin(-1, keepdim=True), clip * x.amax(-1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    zero = torch.round(-low / step)
    return ((torch.round(x / step) + zero).clamp(0, 2**bits - 1) - zero) * step


@pytest.mark.parametrize("clip", [1.0, 0.95, 0.9])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_it_is_the_quantiser_of_roste(bits, clip):
    # In float64, where dividing by the step and multiplying by its reciprocal cannot part at a tie.
    x = torch.randn(64, 40, dtype=torch.float64)
    ours = fake_quantize(x, TensorScheme(bits, clip=clip))
    torch.testing.assert_close(ours, roste_quantiser(x, bits, clip), atol=1e-12, rtol=0)


def test_a_symmetric_step_is_the_largest_value_over_the_highest_code():
    x = torch.tensor([[-7.0, 3.2, 0.4]])
    assert quantize(x, TensorScheme(4, symmetric=True)).codes.tolist() == [[-7, 3, 0]]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_pretending_gives_what_the_codes_stand_for(scheme, dtype):
    x = torch.randn(3, 5, 32, dtype=dtype)
    y = fake_quantize(x, scheme)
    assert y.dtype == dtype
    assert torch.equal(y, quantize(x, scheme).dequantize(dtype))


@given(
    rows=st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6), min_size=1, max_size=4),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    includes_zero=st.booleans(),
)
def test_no_value_moves_by_more_than_half_a_step(rows, bits, symmetric, includes_zero):
    x = torch.tensor(rows, dtype=torch.float64)
    found = quantize(x, TensorScheme(bits, symmetric=symmetric, includes_zero=includes_zero))
    lowest, highest = found.scheme.bounds
    assert found.codes.min() >= lowest
    assert found.codes.max() <= highest
    # The zero point is rounded too, which can cost the two ends another half step.
    assert ((found.dequantize() - x).abs() <= found.scale * 1.0001 + 1e-300).all()


@pytest.mark.parametrize("value", [0.0, 2.5, -1e-30, 1e30])
def test_a_constant_row_stays_what_it_is(value):
    x = torch.full((2, 8), value)
    torch.testing.assert_close(fake_quantize(x, TensorScheme(4)), x, rtol=1e-5, atol=0)


def test_ranges_that_need_not_hold_zero_are_finer_where_all_values_have_one_sign():
    x = 2 + torch.rand(16, 64)
    error = [(fake_quantize(x, TensorScheme(4, includes_zero=zero)) - x).norm() for zero in (False, True)]
    assert error[0] < error[1] / 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_gradient_passes_straight_through_or_stops_where_values_were_clipped(scheme):
    x = torch.randn(4, 32, requires_grad=True)
    cotangent = torch.randn(4, 32)
    (gradient,) = torch.autograd.grad(fake_quantize(x, scheme), x, cotangent)
    if not scheme.masked:
        assert torch.equal(gradient, cotangent)
        return
    found = quantize(x, scheme)
    unclipped = torch.round(x / found.scale) + found.zero_point
    inside = (unclipped >= 0) & (unclipped <= 2**scheme.bits - 1)
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(gradient, cotangent * inside)


def test_nothing_is_kept_for_the_way_back_unless_it_is_masked():
    x = torch.randn(4, 32, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fake_quantize(x, TensorScheme(4)).sum().backward()
    assert not kept


def test_clipping_learns_to_cut_off_an_outlier():
    x = torch.randn(8, 256)
    x[:, 0] = 12.0
    scheme, clipping = TensorScheme(3), LearnedClipping(8, start=4.0)
    optimizer = torch.optim.Adam(clipping.parameters(), lr=0.05)
    errors = []
    for _ in range(120):
        error = (fake_quantize(x, scheme, clipping) - x).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.8 * errors[0]
    assert (torch.sigmoid(clipping.high) < torch.sigmoid(torch.tensor(4.0))).all()
    assert torch.equal(fake_quantize(x, scheme, clipping), quantize(x, scheme, clipping).dequantize())


@pytest.mark.parametrize("masked", [False, True])
def test_learned_clipping_passes_the_gradient_of_the_values_on_as_the_scheme_says(masked):
    # The lowest and the highest value of a group move its step; all others pass their cotangent on or, cut, may not.
    x = torch.linspace(-1, 2, 16).repeat(2, 1).requires_grad_()
    clipping = LearnedClipping(2, start=0.0)  # half of the range
    y = fake_quantize(x, TensorScheme(4, masked=masked), clipping)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    cut = (x > 1.05)[:, 1:-1]
    assert cut.any()
    assert torch.allclose(gradient[:, 1:-1][cut], torch.full_like(gradient[:, 1:-1][cut], float(not masked)))


def test_a_quantiser_can_be_switched_off():
    quantizer, x = FakeQuantizer(TensorScheme(2)), torch.randn(2, 8)
    assert not torch.equal(quantizer(x), x)
    quantizer.enabled = False
    assert torch.equal(quantizer(x), x)


def test_it_works_under_vmap_and_compile():
    x = torch.randn(3, 4, 16)
    scheme = TensorScheme(4)
    expected = fake_quantize(x, scheme)
    assert torch.equal(torch.func.vmap(lambda row: fake_quantize(row, scheme))(x), expected)
    compiled = torch.compile(lambda row: fake_quantize(row, scheme), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)


def test_an_unknown_backend_is_refused():
    with pytest.raises(QuantizationError, match="'torch', 'torchao'"):
        fake_quantize(torch.randn(2, 8), TensorScheme(4), backend="triton")


@pytest.mark.slow  # torchao comes with `make test-slow`
@pytest.mark.parametrize("scheme", SCHEMES)
def test_torchao_gives_the_same_numbers_to_the_last_bit(scheme):
    pytest.importorskip("torchao")
    x = torch.randn(2, 4, 32, requires_grad=True)
    ours, theirs = fake_quantize(x, scheme), fake_quantize(x, scheme, backend="torchao")
    assert torch.equal(ours, theirs)
    if scheme.masked:
        gradients = [torch.autograd.grad(y, x, torch.ones_like(y))[0] for y in (ours, theirs)]
        torch.testing.assert_close(*gradients)


@pytest.mark.slow
def test_activations_are_quantised_as_torchao_does_for_each_token():
    pytest.importorskip("torchao")
    from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

    x = torch.randn(2, 7, 32)
    theirs = IntxFakeQuantizer(IntxFakeQuantizeConfig(torch.int4, "per_token", is_symmetric=False))(x)
    assert torch.equal(fake_quantize(x, TensorScheme(4)), theirs)


@pytest.mark.slow
def test_torchao_runs_the_weights_that_were_trained():
    pytest.importorskip("torchao")
    from torchao.quantization import IntxUnpackedToInt8Tensor, MappingType

    weight = torch.randn(16, 32)
    found = quantize(weight, TensorScheme(4, clip=0.9))
    held = IntxUnpackedToInt8Tensor.from_hp(
        weight,
        (1, 32),
        torch.int4,
        mapping_type=MappingType.ASYMMETRIC,
        intx_choose_qparams_algorithm=None,
        custom_scale=found.scale,
        custom_zero_point=(found.zero_point - 8).to(torch.int8),
    )
    assert torch.equal(held.dequantize(), found.dequantize())
