"""<Z> of wide circuits, against states made gate by gate."""

import pytest
import torch

from ketune.circuits import Channel, Circuit, Gate, NoiseModel, many_wires, read_pauli_z, run, rxryrz_ring, simulate


def by_simulation(circuit, x, angles, encoding):
    """Each <Z> from probabilities, wire by wire."""
    n = circuit.n_wires
    rows = []
    for row, own in zip(x, angles.expand(len(x), -1)):
        if encoding == "angle":
            uploads = Circuit(n, tuple(Gate("RY", (w,), w) for w in range(len(row))))
            state = simulate(uploads + circuit, torch.cat((row, own)))
        else:
            padded = torch.zeros(2**n, dtype=row.dtype)
            padded[: len(row)] = row / row.norm()
            state = simulate(circuit, own, padded)
        weights = state.abs().square()
        rows.append(
            torch.stack([(w[0] - w[1]).sum() for w in (weights.view(2**q, 2, -1).transpose(0, 1) for q in range(n))])
        )
    return torch.stack(rows)


@pytest.mark.parametrize("encoding", ["angle", "amplitude"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_wide_readouts_and_gradients_are_those_of_the_state(encoding, per_sample, monkeypatch):
    monkeypatch.setattr(many_wires, "MAX_WIRES", 3)  # the wide path on circuits small enough to check everything
    monkeypatch.setattr(many_wires, "_CHUNK", 2**6)  # two samples at once
    circuit = rxryrz_ring(5, 2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4 if encoding == "angle" else 20, dtype=torch.float64, generator=generator).requires_grad_()
    shape = (5, 30) if per_sample else (30,)
    angles = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.randn(5, 5, dtype=torch.float64, generator=generator)
    wanted = by_simulation(circuit, x, angles, encoding)
    gradients = torch.autograd.grad((wanted * weights).sum(), (x, angles))
    for kept in (many_wires._KEPT, 0):  # states kept, states made again
        monkeypatch.setattr(many_wires, "_KEPT", kept)
        ours = read_pauli_z(circuit, x, angles, encoding=encoding)
        torch.testing.assert_close(ours, wanted)
        torch.testing.assert_close(torch.autograd.grad((ours * weights).sum(), (x, angles)), gradients)


@pytest.mark.parametrize("n_wires", [16, pytest.param(20, marks=pytest.mark.slow)])
def test_wide_circuits_read_out_as_simulated(n_wires):
    circuit = rxryrz_ring(n_wires, 1)
    generator = torch.Generator().manual_seed(0)
    x, angles = torch.randn(1, n_wires, generator=generator), torch.randn(circuit.n_angles, generator=generator)
    wanted = by_simulation(circuit, x, angles, "angle")
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(read_pauli_z(circuit, x, angles), wanted, atol=1e-5, rtol=0)


def test_up_to_fourteen_wires_it_is_run():
    circuit = rxryrz_ring(4, 2)
    x, angles = torch.randn(2, 3, 4), torch.randn(24)
    assert torch.equal(read_pauli_z(circuit, x, angles), run(circuit, x, angles, encoding="angle"))
    assert read_pauli_z(circuit, x[:, :0], angles).shape == (2, 0, 4)


def test_sets_of_angles_are_those_of_a_loop():
    circuit = rxryrz_ring(5, 2)
    x, angles = torch.randn(6, 5), torch.randn(6, 30)
    loop = torch.stack([read_pauli_z(circuit, row, own) for row, own in zip(x, angles)])
    torch.testing.assert_close(read_pauli_z(circuit, x, angles), loop, atol=1e-6, rtol=0)


@pytest.mark.parametrize("encoding", ["angle", "amplitude"])
@pytest.mark.parametrize("wide", [False, True])
def test_full_dephasing_of_the_readout_is_what_certain_flips_say(encoding, wide, monkeypatch):
    """Bit flips with probability 1 after CNOTs: an exact circuit with X gates, and readouts shrunk by misreading."""
    if wide:
        monkeypatch.setattr(many_wires, "MAX_WIRES", 1)
    circuit = rxryrz_ring(3, 2)
    x, angles = torch.randn(4, 3).double(), torch.randn(18).double()
    noise = NoiseModel(two_wire=(Channel("bit_flip", 1.0),), readout_error=0.1)
    gates = []
    for gate in circuit.gates:
        gates += [gate, *(Gate("X", (wire,)) for wire in gate.wires if len(gate.wires) == 2)]
    wanted = 0.8 * by_simulation(Circuit(3, tuple(gates)), x, angles, encoding)
    ours = read_pauli_z(circuit, x, angles, encoding=encoding, noise=noise, n_trajectories=2)
    torch.testing.assert_close(ours, wanted)


def test_noise_follows_the_encoding_gates_of_angles_and_not_of_amplitudes():
    circuit = Circuit(1, ())
    noise = NoiseModel(one_wire=(Channel("bit_flip", 1.0),))
    x, none = torch.tensor([[0.3]]), torch.zeros(0)
    assert torch.allclose(read_pauli_z(circuit, x, none, noise=noise), -x.cos())
    amplitudes = torch.tensor([[0.6, 0.8]])
    ours = read_pauli_z(circuit, amplitudes, none, encoding="amplitude", noise=noise)
    assert torch.allclose(ours, torch.tensor([[0.36 - 0.64]]))


def test_every_sample_has_trajectories_of_its_own_and_seeds_repeat_them():
    circuit, noise = rxryrz_ring(4, 2), NoiseModel((Channel("depolarising", 0.2),))
    x, angles = torch.zeros(50, 4), torch.ones(24)
    draw = [
        read_pauli_z(circuit, x, angles, noise=noise, n_trajectories=1, generator=torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert len(draw[0].unique(dim=0)) > 10


def test_what_does_not_fit_is_refused():
    circuit = rxryrz_ring(3)
    with pytest.raises(ValueError, match=r"encoding='iqp'"):
        read_pauli_z(circuit, torch.zeros(3), torch.zeros(9), encoding="iqp")
    with pytest.raises(ValueError, match=r"\(4,\).*1 to 3"):
        read_pauli_z(circuit, torch.zeros(4), torch.zeros(9))
    with pytest.raises(ValueError, match=r"\(8,\).*9"):
        read_pauli_z(circuit, torch.zeros(3), torch.zeros(8))
    with pytest.raises(ValueError, match=r"n_trajectories=0"):
        read_pauli_z(circuit, torch.zeros(3), torch.zeros(9), noise=NoiseModel(), n_trajectories=0)
