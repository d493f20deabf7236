"""The difference of two circuits against the two circuits applied gate by gate, and its precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.tensor_networks.axes import balanced_axes
from ketune.tensor_networks.gate_chain import GateChain
from ketune.tensor_networks.gate_graphs import GRAPHS, gate_pairs
from ketune.tensor_networks.gate_starts import random_start, unit_start
from ketune.tensor_networks.two_streams import difference, difference_matrix, is_cheaper_dense


def chain_for(axes, graph="all_pairs", n_gates=None, out_axes=None, shape=None):
    out_axes = out_axes or axes
    shape = shape or (math.prod(axes), math.prod(out_axes))
    return GateChain(gate_pairs(graph, len(axes), n_gates), axes, out_axes, *shape)


def apply_gates(chain, entries, x):
    """The circuit as its definition says, one gate after the other on one pair of axes."""
    tensor = torch.nn.functional.pad(x, (0, math.prod(chain.in_axes) - x.shape[-1])).reshape(-1, *chain.in_axes)
    for gate, piece in zip(chain.gates, entries.split(chain.sizes)):
        m, n = (axis + 1 for axis in gate.axes)
        tensor = torch.tensordot(tensor, piece.reshape(gate.shape), dims=([m, n], [2, 3])).movedim((-2, -1), (m, n))
    return tensor.reshape(len(x), -1)[:, : chain.out_features]


def random_numbers(chain, seed, rows=3):
    generator = torch.Generator().manual_seed(seed)
    n = sum(chain.sizes)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return make(n), make(n).requires_grad_(), make(rows, chain.in_features).requires_grad_()


@pytest.mark.parametrize("axes", [(3, 2, 4), (3, 2, 4, 2), (2, 3, 2, 2, 2)])
def test_the_matrix_equals_the_einsum_of_the_released_order(axes):
    chain = chain_for(axes)
    start, offsets, _ = random_numbers(chain, 0)
    pieces = [p.reshape(g.shape) for p, g in zip((start + offsets).split(chain.sizes), chain.gates)]
    fixed = [p.reshape(g.shape) for p, g in zip(start.split(chain.sizes), chain.gates)]
    d = math.prod(axes)
    unit = torch.eye(d, dtype=torch.float64).reshape(d, *axes)
    if len(axes) == 3:
        # (-1,-2), (-1,-3), (-2,-3): gates as (out_m, out_n, in_m, in_n), m closer to the front.
        equation = "zabc,pqbc,xyaq,uvxp->zuvy"
    elif len(axes) == 4:
        # As the released code generates it.
        equation = "zabcd,ghcd,flbh,epal,jkfg,ioek,mnij->zmnop"
    else:
        # (4,5) (3,5) (2,5) (1,5) (3,4) (2,4) (1,4) (2,3) (1,3) (1,2), axes counted from the front.
        equation = (
            "zabcde,fgde,hicg,jkbi,lmak,nohf,pqjo,rslq,tupn,vwru,xyvt->zxywsm"  # written out by hand, axis by axis
        )
    expected = torch.einsum(equation, unit, *pieces) - torch.einsum(equation, unit, *fixed)
    expected = expected.reshape(d, d).T  # rows are outputs
    assert torch.allclose(difference_matrix(chain, start, offsets), expected, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    n_axes=st.integers(2, 4),
    graph=st.sampled_from(sorted(GRAPHS)),
    n_gates=st.one_of(st.none(), st.integers(4, 8)),
    seed=st.integers(0, 2**31),
)
def test_both_ways_give_the_difference_of_two_circuits_and_its_gradients(shape, n_axes, graph, n_gates, seed):
    chain = chain_for(balanced_axes(shape[0], n_axes), graph, n_gates, balanced_axes(shape[1], n_axes), shape)
    start, offsets, x = random_numbers(chain, seed)
    weight = torch.linspace(-1, 1, shape[1], dtype=torch.float64)
    expected = apply_gates(chain, start + offsets, x) - apply_gates(chain, start, x)
    gradients = torch.autograd.grad((expected * weight).sum(), (x, offsets))
    scale = 1 + max(float(t.detach().abs().max()) for t in (expected, *gradients))
    for dense in (False, True):
        found = difference(chain, x, start, offsets, dense=dense)
        assert torch.allclose(found, expected, atol=1e-9 * scale)
        for ours, theirs in zip(torch.autograd.grad((found * weight).sum(), (x, offsets)), gradients):
            assert torch.allclose(ours, theirs, atol=1e-9 * scale)


@pytest.mark.parametrize("dense", [False, True])
def test_the_first_order_is_the_derivative_in_the_direction_of_the_offsets(dense):
    chain = chain_for((3, 2, 2), shape=(11, 10))
    start, offsets, x = random_numbers(chain, 1)
    ahead = apply_gates(chain, start + 1e-4 * offsets, x) - apply_gates(chain, start - 1e-4 * offsets, x)
    found = difference(chain, x, start, offsets, dense=dense, first_order=True)
    assert torch.allclose(found, ahead / 2e-4, atol=1e-4)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_derivatives_pass_gradcheck_twice(dense, first_order):
    chain = chain_for((2, 2, 1), out_axes=(2, 1, 2), shape=(4, 3))
    start, offsets, x = random_numbers(chain, 2, rows=2)

    def function(x, offsets):
        return difference(chain, x, start, offsets, dense=dense, first_order=first_order)

    assert torch.autograd.gradcheck(function, (x, offsets))
    assert torch.autograd.gradgradcheck(function, (x, offsets))


@pytest.mark.parametrize("dense", [False, True])
def test_gradients_of_single_samples_come_from_vmap(dense):
    chain = chain_for((3, 2, 2))
    start, offsets, x = random_numbers(chain, 3)

    def loss(offsets, x):
        return difference(chain, x[None], start, offsets, dense=dense).sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(offsets.detach(), x.detach())
    for row, gradient in zip(x, each):
        assert torch.allclose(gradient, torch.autograd.grad(loss(offsets, row), offsets)[0])


@pytest.mark.parametrize("dense", [False, True])
def test_an_empty_batch_and_a_single_vector_go_through(dense):
    chain = chain_for((3, 2, 2))
    start, offsets, x = random_numbers(chain, 4)
    assert difference(chain, x[:0], start, offsets, dense=dense).shape == (0, 12)
    one = difference(chain, x[0], start, offsets, dense=dense)
    assert torch.allclose(one, difference(chain, x, start, offsets, dense=dense)[0])


def test_an_axis_that_no_gate_touches_stays_as_it_is():
    chain = chain_for((3, 2, 2), n_gates=1)
    start, offsets, _ = random_numbers(chain, 5)
    matrix = difference_matrix(chain, start, offsets)
    assert torch.allclose(matrix, torch.kron(torch.eye(3), offsets.reshape(4, 4)))


def kept(function):
    """Numbers that autograd keeps for the way back, one for each storage."""
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(seen.values())


@pytest.mark.parametrize("dense", [False, True])
def test_the_way_back_keeps_the_input_and_the_gates_and_nothing_else(dense):
    chain = chain_for((8, 4, 4, 2))
    n = sum(chain.sizes)
    start, offsets = torch.randn(n), torch.randn(n, requires_grad=True)
    x = torch.randn(64, 256, requires_grad=True)
    assert kept(lambda: difference(chain, x, start, offsets, dense=dense)) == 64 * 256 + 2 * n


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dense", [False, True])
def test_offsets_of_zero_give_exactly_zero(dtype, dense):
    chain = chain_for((4, 4, 4, 2), shape=(120, 125))
    start = random_start(chain, torch.Generator().manual_seed(0)).to(dtype)
    offsets = torch.zeros_like(start)
    assert not difference(chain, torch.randn(9, 120, dtype=dtype), start, offsets, dense=dense).any()


@pytest.mark.parametrize(("size", "apart"), [(1e-4, 4.2), (1e-3, 0.57), (1e-2, 0.056)])
def test_bfloat16_keeps_small_updates_where_a_difference_of_circuits_loses_them(size, apart):
    """Measured before with other code (d = 1024): `apart` for the difference, 0.007 for the streams."""
    chain = chain_for((8, 8, 4, 4))
    generator = torch.Generator().manual_seed(7)
    start = random_start(chain, generator)
    offsets = (size * torch.randn(start.shape, generator=generator)).bfloat16()
    x = torch.randn(64, 1024, generator=generator).bfloat16()
    exact = apply_gates(chain, start.double() + offsets.double(), x.double()) - apply_gates(
        chain, start.double(), x.double()
    )
    start = start.bfloat16()
    circuits = apply_gates(chain, start + offsets, x) - apply_gates(chain, start, x)

    def error(found):
        return float((found.double() - exact).norm() / exact.norm())

    assert error(circuits) == pytest.approx(apart, rel=0.3)
    for dense in (False, True):
        assert error(difference(chain, x, start, offsets, dense=dense)) < 0.01


def rank_of_the_circuit(axes):
    """Rank of the derivative of the circuit's matrix by its gates: how many of the parameters are free."""
    chain = chain_for(axes)
    generator = torch.Generator().manual_seed(11)
    gates = torch.randn(sum(chain.sizes), generator=generator, dtype=torch.float64)
    zero = torch.zeros_like(gates)
    # Of first order, the difference is linear in the offsets, so its derivative is the circuit's own.
    jacobian = torch.func.jacrev(lambda offsets: difference_matrix(chain, gates, offsets, True).reshape(-1))(zero)
    return int(torch.linalg.matrix_rank(jacobian)), len(gates)


@pytest.mark.parametrize(
    ("axes", "rank", "count"),
    [((2, 2, 2), 37, 48), ((3, 2, 2), 72, 88), ((2, 2, 2, 2), 67, 96), ((4, 2, 2), 121, 144), ((3, 4), 144, 144)],
)
def test_gates_share_factors_so_that_not_all_parameters_are_free(axes, rank, count):
    assert rank_of_the_circuit(axes) == (rank, count)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), axes=st.sampled_from([(2, 2, 2), (3, 2, 2), (2, 2, 2, 2), (4, 3)]))
def test_the_rank_of_a_circuit_lies_between_its_bounds(seed, axes):
    """sum_a d R_a / d_a - d (n - 1) <= rank <= min_a d R_a / d_a for gates of rank R_a and width d_a."""
    chain = chain_for(axes)
    generator = torch.Generator().manual_seed(seed)
    d, n, entries, shares = math.prod(axes), len(chain.gates), [], []
    for gate in chain.gates:
        width = math.prod(gate.inputs)
        rank = int(torch.randint(1, width + 1, (1,), generator=generator))
        factors = torch.randn(2, width, rank, generator=generator, dtype=torch.float64)
        entries.append((factors[0] @ factors[1].T).reshape(-1))
        shares.append(d * rank // width)
    gates = torch.cat(entries)
    # A circuit whose start gates are zero has no start: the difference is the circuit.
    rank = int(torch.linalg.matrix_rank(difference_matrix(chain, torch.zeros_like(gates), gates)))
    assert sum(shares) - d * (n - 1) <= rank <= min(shares)


def test_start_gates_are_uniform_with_gain_one_and_survive_half_precision():
    chain = chain_for((16, 8, 8, 4))
    start = random_start(chain, torch.Generator().manual_seed(0))
    for gate, piece in zip(chain.gates, start.split(chain.sizes)):
        width = math.prod(gate.inputs)
        assert float(piece.abs().max()) == pytest.approx(math.sqrt(3 / width), rel=0.01)
        assert float(piece.square().mean()) == pytest.approx(1 / width, rel=0.1)
        assert abs(float(piece.mean())) < 4 / width**1.5
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(start.to(dtype).float(), start)


def test_unit_gates_leave_the_input_as_it_is_and_cut_or_fill_axes_that_change():
    chain = chain_for((3, 2, 2), out_axes=(2, 2, 3))
    x = torch.arange(12.0).reshape(1, 3, 2, 2)
    found = apply_gates(chain, unit_start(chain), x.reshape(1, 12)).reshape(2, 2, 3)
    assert torch.equal(found[:, :, :2], x[0, :2])
    assert not found[:, :, 2].any()


def test_the_matrix_is_chosen_when_there_are_many_tokens():
    for chain in (chain_for((5, 4, 4, 2)), chain_for((8, 8, 4, 4))):
        for training in (False, True):
            assert not is_cheaper_dense(chain, 1, training)
            assert is_cheaper_dense(chain, 10**4, training)


def test_the_matrix_is_not_chosen_where_a_product_by_it_alone_costs_more_than_the_gates():
    """16 x 8 x 8 x 4: 10.9 % of the multiply-adds of a dense layer of width 4096 (published axes)."""
    chain = chain_for((16, 8, 8, 4))
    assert sum(step.n_products for step in chain.factored.steps) / 4096**2 == pytest.approx(0.109, abs=5e-4)
    assert not is_cheaper_dense(chain, 10**6, training=True)
