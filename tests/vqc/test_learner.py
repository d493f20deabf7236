"""Q-MAML's Learner: its circuit, its file, its refusals."""

import pytest
import torch

from ketune.circuits import rxryrz_ring, ry_ring
from ketune.vqc import InitialiserError, load_initialiser
from ketune.vqc.learner import Learner


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_a_learner_gives_all_angles_of_its_circuit_for_every_task():
    circuit = rxryrz_ring(3, 2)
    learner = Learner(4, circuit.n_angles)
    tasks = torch.randn(2, 5, 4)
    angles = learner(circuit, tasks)
    assert angles.shape == (2, 5, 18)
    assert torch.allclose(angles[1, 3], learner(circuit, tasks[1, 3]), atol=1e-6)


def test_the_scale_multiplies_the_output():
    whole = Learner(4, 6, scale=1.0)
    small = Learner(4, 6, scale=0.01)
    small.load_state_dict(whole.state_dict())
    task = torch.randn(4)
    assert torch.allclose(small(ry_ring(6), task), 0.01 * whole(ry_ring(6), task))


def test_it_has_two_layers_of_width_256():
    assert sum(weight.numel() for weight in Learner(3, 54).parameters()) == 3 * 256 + 256 + 256 * 54 + 54


def test_a_circuit_with_another_number_of_angles_is_refused_with_what_to_do():
    learner = Learner(4, 6)
    with pytest.raises(InitialiserError, match=r"12 angles.*circuits with 6.*FlipDecoder"):
        learner(ry_ring(6, 2), torch.zeros(4))
    with pytest.raises(InitialiserError, match="descriptors of 4 numbers"):
        learner(ry_ring(6), torch.zeros(5))
    for wrong in ({"n_task": 0}, {"n_angles": 0}, {"hidden": 0}, {"scale": 0.0}):
        with pytest.raises(ValueError, match="at least 1 and"):
            Learner(**{"n_task": 4, "n_angles": 6} | wrong)


def test_a_learner_comes_back_from_its_file(tmp_path):
    learner = Learner(4, 6, hidden=16, scale=0.5)
    learner.scaling.fit(torch.randn(10, 4) * 3)
    learner.save(tmp_path / "learner.safetensors")
    again = load_initialiser(tmp_path / "learner.safetensors")
    assert isinstance(again, Learner)
    assert again.settings() == learner.settings()
    task = torch.randn(3, 4)
    assert torch.equal(again(ry_ring(6), task), learner(ry_ring(6), task))
