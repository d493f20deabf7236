"""One disentangler for many vectors."""

import pytest
import torch

from ketune.state_preparation import aqer, as_states, entanglement, learn_shared_loader, loadability


def family(n_vectors, seed=0):
    """Vectors that one circuit disentangles: products behind the same two gates."""
    generator = torch.Generator().manual_seed(seed)
    wires = torch.randn(n_vectors, 4, 2, dtype=torch.complex128, generator=generator)
    states = torch.einsum("bi,bj,bk,bl->bijkl", *wires.unbind(1))
    rotations = torch.Generator().manual_seed(7)
    for pair in ((0, 2), (1, 3)):
        rotation = torch.linalg.qr(torch.randn(2, 2, dtype=torch.complex128, generator=rotations))[0]
        gate = torch.diag(torch.exp(1j * 0.7 * torch.tensor([1.0, -1, -1, 1]))).to(torch.complex128)
        gate = torch.kron(rotation, rotation) @ gate
        split = states.movedim((pair[0] + 1, pair[1] + 1), (1, 2))
        states = (gate @ split.reshape(n_vectors, 4, 4)).view(split.shape).movedim((1, 2), (pair[0] + 1, pair[1] + 1))
    return as_states(states.flatten(1))


def test_what_the_vectors_share_is_found_and_holds_for_new_ones():
    loader = learn_shared_loader(family(24), 3, n_starts=3, n_steps=60)
    assert loader.entanglement[0] > 0.2
    assert loader.entanglement[1] < 0.02
    new = family(8, seed=1)
    assert float(loader.infidelities(new).mean()) < 0.01
    assert float(loadability(new).product.mean()) > 0.04


def test_circuits_differ_in_their_first_rotations_only_and_load_what_they_say():
    vectors = family(3)
    loader = learn_shared_loader(vectors, 2, n_starts=1, n_steps=5)
    circuits = loader.circuits(vectors)
    assert len({circuit.pairs for circuit in circuits}) == 1
    assert all(torch.equal(circuit.angles, loader.angles) for circuit in circuits)
    assert not torch.equal(circuits[0].start, circuits[1].start)
    overlaps = torch.stack([vector.conj() @ circuit.state() for vector, circuit in zip(vectors, circuits)])
    torch.testing.assert_close(1 - overlaps.abs().square(), loader.infidelities(vectors))


def test_for_one_vector_it_is_the_first_two_steps_of_aqer():
    vector = family(1)
    loader = learn_shared_loader(vector, 3, n_starts=8, n_steps=0)
    alone = aqer(vector, 3, n_steps=0)[0]
    assert float(loader.infidelities(vector)) == pytest.approx(alone.infidelity, abs=0.02)
    assert loader.entanglement[0] == pytest.approx(float(entanglement(vector)))


@pytest.mark.parametrize("block", ["rzz", "cz"])
def test_tuning_all_angles_never_leaves_more_entanglement(block):
    vectors = as_states(torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    before = learn_shared_loader(vectors, 4, block=block, n_starts=1, n_steps=0)
    after = learn_shared_loader(vectors, 4, block=block, n_starts=1, n_steps=40)
    assert after.entanglement[1] <= before.entanglement[1]
    assert len(after.pairs) <= 4


def test_wrong_input_says_what_is_right():
    with pytest.raises(ValueError, match="'rzz' or 'cz'"):
        learn_shared_loader(torch.ones(2, 4), 1, block="su4")
    with pytest.raises(ValueError, match=r"take \(B, n_features\)"):
        learn_shared_loader(torch.ones(4), 1)
    loader = learn_shared_loader(family(2), 1, n_starts=0, n_steps=0)
    with pytest.raises(ValueError, match="vectors of 8 entries; this loader has 4 wires"):
        loader.circuits(torch.ones(1, 8))
