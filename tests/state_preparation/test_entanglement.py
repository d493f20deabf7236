"""AQER's measure and its bounds, against reduced states and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.circuits import entropy, evolve, meyer_wallach, simplified_two_design
from ketune.state_preparation import (
    as_states,
    bloch_vectors,
    entanglement,
    infidelity_bounds,
    loadability,
    product_angles,
    wire_entropies,
)
from ketune.state_preparation.entanglement import wire_states


def random_states(n_states, n_wires, seed=0, real=False):
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if real else torch.complex128
    return as_states(torch.randn(n_states, 2**n_wires, dtype=dtype, generator=generator))


@pytest.mark.parametrize("real", [True, False])
def test_entropies_are_those_of_reduced_states(real):
    states = random_states(5, 4, real=real)
    expected = torch.stack([entropy(states, wire, order=2, base=2) for wire in range(4)], -1)
    torch.testing.assert_close(wire_entropies(states), expected)
    torch.testing.assert_close(entanglement(states), expected.sum(-1))


def test_real_states_need_no_complex_numbers():
    states = random_states(2, 3, real=True).real.float()
    assert wire_entropies(states).dtype == torch.float32
    torch.testing.assert_close(wire_entropies(states).double(), wire_entropies(states.to(torch.complex128)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n_wires=st.integers(1, 6))
def test_gates_on_one_wire_leave_the_measure_alone(seed, n_wires):
    states = random_states(1, n_wires, seed)
    generator = torch.Generator().manual_seed(seed)
    wire = int(torch.randint(n_wires, (), generator=generator))
    gate = torch.linalg.qr(torch.randn(2, 2, dtype=torch.complex128, generator=generator))[0]
    turned = (gate @ states.unflatten(-1, (2**wire, 2, -1))).flatten(1)
    torch.testing.assert_close(entanglement(turned), entanglement(states), atol=1e-9, rtol=0)


def test_bounds_hold_for_a_thousand_states():
    # Shallow circuits and powers of random vectors: from product states to nearly the most entangled ones.
    for n_wires in (2, 3, 5, 7):
        circuit = simplified_two_design(n_wires, 1)
        generator = torch.Generator().manual_seed(n_wires)
        scale = torch.rand(125, 1, generator=generator, dtype=torch.float64)
        angles = scale * torch.randn(125, circuit.n_angles, generator=generator, dtype=torch.float64)
        shallow = evolve(circuit, angles)
        dense = as_states(random_states(125, n_wires, n_wires).abs().pow(1 + 3 * scale))
        found = loadability(torch.cat((shallow.to(torch.complex128), dense)))
        assert bool((found.product <= found.upper + 1e-12).all())
        assert bool((found.product >= found.lower - 1e-12).all())
        assert float(found.upper.min()) < 0.2
        assert float(found.entanglement.max()) > 0.5


def test_no_product_state_beats_the_lower_bound():
    states = random_states(3, 3)
    angles = torch.randn(3, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    optimizer = torch.optim.Adam([angles], lr=0.05)
    for _ in range(300):
        wires = wire_states(angles)
        product = torch.einsum("bi,bj,bk->bijk", *wires.unbind(1)).flatten(1)
        infidelity = 1 - (states.conj() * product).sum(-1).abs().square()
        optimizer.zero_grad()
        infidelity.sum().backward()
        optimizer.step()
    lower, _ = infidelity_bounds(entanglement(states), 3)
    assert bool((infidelity > lower).all())
    assert bool((infidelity <= loadability(states).product + 1e-3).all())  # closed form is no better than the best


def test_bounds_at_their_ends():
    lower, upper = infidelity_bounds(torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64), 4)
    assert lower.tolist() == [0.0, (1 - math.sqrt(math.sqrt(2) - 1)) / 2, 0.5]
    assert upper.tolist() == [0.0, 1.0, 1.0]
    small = torch.tensor(1e-4, dtype=torch.float64)
    lower, upper = infidelity_bounds(small, 4)
    assert float(lower / small) == pytest.approx(math.log(2) / 8, rel=1e-3)
    assert float(upper / small) == pytest.approx(math.log(2) / 2, rel=1e-3)


def test_product_states_are_found_exactly():
    angles = torch.rand(6, 4, 2, dtype=torch.float64) * math.pi
    wires = wire_states(angles)
    states = torch.einsum("bi,bj,bk,bl->bijkl", *wires.unbind(1)).flatten(1)
    found = loadability(states)
    assert float(found.product.max()) < 1e-12
    assert float(found.entanglement.max()) < 1e-12
    torch.testing.assert_close(product_angles(bloch_vectors(states)), angles)


def test_the_measure_has_slopes_everywhere():
    for start in (torch.tensor([1.0, 0, 0, 0]), torch.tensor([1.0, 0, 0, 1.0]) / 2**0.5, torch.ones(4) / 2):
        states = start.double().requires_grad_()
        (slope,) = torch.autograd.grad(entanglement(states), states, create_graph=True)
        assert bool(torch.isfinite(slope).all())
        assert bool(torch.isfinite(torch.autograd.grad(slope.sum(), states)[0]).all())
    torch.autograd.gradcheck(lambda x: entanglement(x / x.norm()), torch.randn(8, dtype=torch.float64).requires_grad_())


def test_two_wires_have_the_entropy_that_follows_from_meyer_and_wallach():
    states = random_states(20, 2)
    purities = 1 - meyer_wallach(states) / 2  # equal on both wires
    torch.testing.assert_close(entanglement(states), -2 * torch.log2(purities))


def test_vectors_without_a_direction_are_refused():
    with pytest.raises(ValueError, match="zeros has no direction"):
        as_states(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="not finite"):
        as_states(torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match="last dimension holds the entries"):
        as_states(torch.zeros(3, 0))
    with pytest.raises(ValueError, match="must be 2"):
        wire_entropies(torch.ones(3))


def test_vectors_of_any_size_and_norm_become_states():
    states = as_states(torch.tensor([3e200, 4e200, 0.0], dtype=torch.float64))
    torch.testing.assert_close(states, torch.tensor([0.6, 0.8, 0, 0], dtype=torch.complex128))
    assert as_states(torch.tensor([5e-320], dtype=torch.float64)).shape == (2,)
