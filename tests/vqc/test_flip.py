"""FLIP's decoder: any circuit, any batch of tasks, and a file."""

import math

import pytest
import torch

from ketune.circuits import Circuit, Gate, rxryrz_ring, strongly_entangling
from ketune.vqc import InitialiserError, load_initialiser
from ketune.vqc.flip import FlipDecoder

SMALL, LARGE = rxryrz_ring(4, 2), rxryrz_ring(8, 4)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_one_decoder_starts_circuits_of_twice_the_wires_and_layers_and_of_another_kind():
    decoder = FlipDecoder(n_task=3)
    task = torch.randn(5, 2, 3)
    for circuit in (SMALL, LARGE, strongly_entangling(5, 3)):
        angles = decoder(circuit, task)
        assert angles.shape == (5, 2, circuit.n_angles)
        assert angles.abs().max() < math.pi
        assert angles.std(-1).min() > 1e-3
    assert decoder(SMALL, task[0, 0]).shape == (SMALL.n_angles,)


def test_each_task_of_a_batch_has_the_angles_that_it_has_alone():
    decoder = FlipDecoder(n_task=3)
    tasks = torch.randn(4, 3)
    together = decoder(SMALL, tasks)
    assert torch.allclose(together, torch.stack([decoder(SMALL, task) for task in tasks]), atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_an_angle_depends_on_its_own_gate_only_and_not_on_the_order_of_angles():
    decoder = FlipDecoder()
    gates = (Gate("RX", (0,), 0), Gate("RY", (1,), 1))
    turned = (Gate("RX", (0,), 1), Gate("RY", (1,), 0))
    first, second = (decoder(Circuit(2, each), torch.zeros(0)) for each in (gates, turned))
    assert torch.allclose(first, second.flip(0))


@pytest.mark.parametrize("n_task", [0, 3])
def test_a_decoder_comes_back_from_its_file_with_its_scale_of_descriptors(tmp_path, n_task):
    decoder = FlipDecoder(n_task, hidden=8, n_hidden=3)
    decoder.scaling.fit(torch.randn(10, n_task) * 5 + 1)
    decoder.save(tmp_path / "flip.safetensors")
    again = load_initialiser(tmp_path / "flip.safetensors")
    assert isinstance(again, FlipDecoder)
    assert again.settings() == {"n_task": n_task, "hidden": 8, "n_hidden": 3}
    task = torch.randn(2, n_task)
    assert torch.equal(again(LARGE, task), decoder(LARGE, task))


def test_descriptors_of_another_length_and_impossible_sizes_are_refused():
    with pytest.raises(InitialiserError, match="descriptors of 3 numbers"):
        FlipDecoder(n_task=3)(SMALL, torch.zeros(2))
    with pytest.raises(ValueError, match="at least 1"):
        FlipDecoder(hidden=0)
    with pytest.raises(ValueError, match="n_task=-1"):
        FlipDecoder(n_task=-1)


def test_the_scale_of_descriptors_is_that_of_the_family_and_leaves_constant_entries_at_zero():
    scaling = FlipDecoder(n_task=3).scaling
    raw = torch.tensor([[0.0, 5.0, 1.0], [2.0, 5.0, -1.0]])
    assert torch.equal(scaling(raw), raw)
    scaling.fit(raw)
    assert torch.allclose(scaling(raw), torch.tensor([[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]]))
