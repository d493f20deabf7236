"""Fast rotations against Kronecker products of matrices that are built here anew."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.quantization.hadamard import Rotation, hadamard_transform
from ketune.quantization.hadamard_matrices import hadamard_base, hartley, paley, paley_field, quadratic_characters

LLM_WIDTHS = (896, 4864, 9728, 11008, 14336, 18944)
"""Of Qwen2.5 (0.5B: 896 and 4864, 7B: 18944), Qwen3-4B (9728), Llama 2 (11008) and Llama 3 (14336)."""


def by_kronecker(width):
    """The Hadamard matrix by its definition: [[1, 1], [1, -1]] as often as it goes, times the base."""
    base = hadamard_base(width)
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for _ in range((width // base).bit_length() - 1):
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), matrix)
    return torch.kron(matrix, torch.ones(1, 1) if base == 1 else paley(base).double()) / width**0.5


@pytest.mark.parametrize("width", [1, 2, 4, 12, 20, 24, 28, 32, 64, 76, 128, 152, 256, 344, 512, 896, 1024, 2048])
def test_the_transform_is_the_product_with_the_kronecker_product(width):
    x = torch.randn(3, width, dtype=torch.float64)
    assert torch.allclose(hadamard_transform(x), x @ by_kronecker(width), atol=1e-12)


def test_four_entries_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert hadamard_transform(x).tolist() == [5.0, -1.0, -2.0, 0.0]


@pytest.mark.parametrize("order", [4, 12, 20, 28, 36, 44, 52, 76, 100, 108, 140, 148, 244, 344, 924])
def test_paley_matrices_are_hadamard_matrices(order):
    matrix = paley(order)
    assert set(matrix.unique().tolist()) == {-1, 1}
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.int64))


def test_known_orders_of_the_paley_families():
    first = [n for n in range(4, 120, 4) if paley_field(n) == n - 1]
    second = [n for n in range(4, 120, 4) if paley_field(n) not in (None, n - 1)]
    assert first == [4, 8, 12, 20, 24, 28, 32, 44, 48, 60, 68, 72, 80, 84, 104, 108]
    assert second == [36, 52, 76, 100]
    with pytest.raises(ValueError, match="order=92"):
        paley(92)


@pytest.mark.parametrize("p", [3, 5, 7, 11, 37])
def test_characters_of_a_prime_field_are_eulers(p):
    expected = [[pow(a - b, (p - 1) // 2, p) for b in range(p)] for a in range(p)]
    expected = [[value - p if value == p - 1 else value for value in row] for row in expected]
    assert quadratic_characters(p).tolist() == expected


@pytest.mark.parametrize("q", [9, 25, 27, 49, 343])
def test_characters_of_a_field_have_the_correlations_of_a_conference_matrix(q):
    characters = quadratic_characters(q)
    identity, ones = torch.eye(q, dtype=torch.int64), torch.ones(q, q, dtype=torch.int64)
    assert torch.equal(characters @ characters.T, q * identity - ones)
    assert torch.equal(characters.T, characters if q % 4 == 1 else -characters)


@given(width=st.integers(2, 1200), signs_seed=st.none() | st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_every_width_has_an_orthonormal_rotation_that_mixes_all_entries(width, signs_seed):
    rotation = Rotation(width, signs_seed=signs_seed)
    matrix = rotation.matrix(torch.float64)
    identity = torch.eye(width, dtype=torch.float64)
    assert torch.allclose(matrix @ matrix.T, identity, atol=1e-11)
    assert torch.allclose(rotation.inverse(identity), matrix.T, atol=1e-13)
    largest = 1 if hadamard_base(width) else 2**0.5
    assert matrix.abs().max() <= (largest + 1e-9) / width**0.5
    assert matrix.count_nonzero() > 0.7 * width**2  # a Hartley matrix has a zero where cos = -sin


@pytest.mark.parametrize("width", LLM_WIDTHS)
def test_widths_of_language_models_have_hadamard_matrices(width):
    rotation, x = Rotation(width), torch.randn(2, width)
    row = torch.zeros(width)
    row[width // 3] = width**0.5
    assert torch.allclose(rotation(row).abs(), torch.ones(width), atol=1e-5)
    assert torch.allclose(rotation(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    assert torch.allclose(rotation.inverse(rotation(x)), x, atol=1e-5)
    assert torch.allclose(hadamard_transform(x), rotation(x), atol=0)


@given(blocks=st.integers(1, 6), block=st.integers(2, 40), signs=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_block_rotates_each_head_by_itself(blocks, block, signs):
    x = torch.randn(4, blocks * block, dtype=torch.float64)
    rotation = Rotation(blocks * block, block=block, signs_seed=5 if signs else None)
    signs_of = rotation.matrix(torch.float64) * 0 + 1
    expected = torch.block_diag(*[Rotation(block).matrix(torch.float64)] * blocks)
    if signs:
        bits = torch.randint(2, (blocks * block,), generator=torch.Generator().manual_seed(5))
        signs_of = (2 * bits - 1).double()[:, None]
    assert torch.allclose(rotation.matrix(torch.float64), signs_of * expected, atol=1e-12)
    assert torch.allclose(rotation(x), x @ (signs_of * expected), atol=1e-12)


@pytest.mark.parametrize(("width", "block"), [(24, None), (24, 12), (10, None), (256, None), (6, 3)])
def test_first_and_second_derivatives(width, block):
    rotation = Rotation(width, block=block, signs_seed=1)
    x = torch.randn(2, width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation, x)
    assert torch.autograd.gradcheck(rotation.inverse, x)
    assert torch.autograd.gradgradcheck(lambda x: rotation(x).pow(3), x)


def test_nothing_is_saved_for_the_way_back():
    saved = []
    x = torch.randn(8, 96, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        Rotation(96, signs_seed=0)(x).sum().backward()
    assert not saved
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    rotation = Rotation(896, signs_seed=2)
    x = torch.randn(16, 896).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = rotation(x)
    assert y.dtype == dtype
    exact = rotation(x.double())
    assert torch.allclose(y.double(), exact, rtol=0.501 * torch.finfo(dtype).eps, atol=2e-6)


@pytest.mark.parametrize("shape", [(96,), (0, 96), (2, 3, 4, 96)])
def test_any_leading_axes_and_strides(shape):
    rotation, x = Rotation(96, block=24), torch.randn(shape)
    assert rotation(x).shape == shape
    assert torch.allclose(rotation(x), x @ rotation.matrix(), atol=1e-5)
    turned = torch.randn(96, 5)
    assert torch.allclose(rotation(turned.T), turned.T @ rotation.matrix(), atol=1e-5)


def test_under_vmap_inference_mode_and_on_meta():
    rotation, x = Rotation(172, signs_seed=9), torch.randn(3, 5, 172)
    with torch.inference_mode():
        rotation(x)
    x.requires_grad_()  # matrices that were made in inference mode must not reach autograd
    rotation(x).sum().backward()
    assert torch.allclose(torch.func.vmap(rotation)(x), rotation(x), atol=1e-6)
    assert rotation(x.to("meta")).is_meta
    with torch.device("meta"):
        assert not Rotation(688)(torch.ones(688, device="cpu")).is_meta


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_without_a_break(backend):
    rotation, x = Rotation(48, block=12, signs_seed=3), torch.randn(4, 48, requires_grad=True)
    y = torch.compile(lambda x: rotation(x.sin()), fullgraph=True, backend=backend)(x)
    assert torch.allclose(y, rotation(x.sin()), atol=1e-6)
    (ours,) = torch.autograd.grad(y.pow(3).sum(), x)
    (theirs,) = torch.autograd.grad(rotation(x.sin()).pow(3).sum(), x)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_random_signs_come_from_the_seed_and_before_the_mixing():
    first, same, other = (Rotation(64, signs_seed=seed).matrix() for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal((first * Rotation(64).matrix()).sign().std(1), torch.zeros(64))  # a row has one sign


def test_a_rotation_is_described_copied_and_pickled_by_its_arguments():
    rotation = Rotation(22016, block=11008, signs_seed=4)
    assert repr(rotation) == "Rotation(22016, block=11008, sylvester 32 x paley 344, signs_seed=4)"
    assert not rotation.state_dict()
    x = torch.randn(22016)
    for again in (Rotation(**rotation.settings()), copy.deepcopy(rotation), pickle.loads(pickle.dumps(rotation))):
        assert torch.equal(again(x), rotation(x))


def test_it_spreads_an_outlier_where_blocks_of_known_matrices_would_be_four_wide():
    width = 172
    assert hadamard_base(width) is None
    assert max(d for d in range(1, width + 1) if width % d == 0 and hadamard_base(d)) == 4
    x = torch.zeros(width)
    x[7] = 1
    assert Rotation(width)(x).abs().max() < 0.11
    assert Rotation(width, block=4)(x).abs().max() == 0.5


def test_hartley_matrices_are_their_own_inverses():
    for order in (1, 2, 3, 7, 43, 225):
        assert torch.allclose(hartley(order) @ hartley(order), torch.eye(order, dtype=torch.float64), atol=1e-13)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match=r"width 172.*Rotation\(172\)"):
        hadamard_transform(torch.zeros(172))
    with pytest.raises(ValueError, match=r"Rotation\(10, block=4\).*divide"):
        Rotation(10, block=4)
    with pytest.raises(ValueError, match=r"Rotation\(1\)"):
        Rotation(1)
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(\.\.\., 6\)"):
        Rotation(6)(torch.zeros(2, 5))
    with pytest.raises(TypeError, match="int64"):
        Rotation(6)(torch.zeros(6, dtype=torch.int64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    for width in (96, 172, 4864):
        rotation, x = Rotation(width, signs_seed=1), torch.randn(5, width)
        assert torch.allclose(rotation(x.cuda()).cpu(), rotation(x), atol=1e-5)
