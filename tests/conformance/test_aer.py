"""Noise against Qiskit Aer: exact density matrices of the same circuits and channels, and counts with shots."""

import math

import pytest
import torch

from ketune.circuits import (
    Channel,
    Circuit,
    Gate,
    NoiseModel,
    PauliChannel,
    counts,
    noisy_run,
    noisy_trajectories,
    reduced_state,
    sample,
    simulate_noisy,
    to_qiskit,
)

aer = pytest.importorskip("qiskit_aer")
noise_module = pytest.importorskip("qiskit_aer.noise")
quantum_info = pytest.importorskip("qiskit.quantum_info")

ONE_WIRE = ("RX", "RY", "RZ", "H", "S", "T")
NATIVE = {"RX": "rx", "RY": "ry", "RZ": "rz", "H": "h", "S": "s", "T": "t", "CNOT": "cx", "CZ": "cz", "ISINGZZ": "rzz"}


def mixed_circuit():
    """Gates that Aer knows by the same names, so that its compiler moves none."""
    gates, n_angles = [], 0
    for layer in range(2):
        for wire in range(3):
            for name in ("RY", "RZ") if layer else ("H", "RX", "T"):
                gates.append(Gate(name, (wire,), n_angles if name.startswith("R") else None))
                n_angles += name.startswith("R")
        gates += [Gate("CNOT", (0, 1)), Gate("CZ", (2, 1)), Gate("ISINGZZ", (0, 2), n_angles), Gate("S", (1,))]
        n_angles += 1
    return Circuit(3, tuple(gates))


CIRCUIT = mixed_circuit()
ANGLES = torch.randn(CIRCUIT.n_angles, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def pauli_error(channel):
    """Our channel as Aer's: of two letters, Aer writes that of the gate's first qubit last."""
    words, chances = channel.words, channel.probabilities
    identity = "I" * channel.n_wires
    pairs = [(word[::-1], chance) for word, chance in zip(words, chances)]
    return noise_module.pauli_error([*pairs, (identity, 1 - sum(chances))])


def one_wire_error(channel):
    """Our channels on one wire as Aer's, by Aer's own constructors and conventions."""
    p = channel.strength
    return {
        "depolarising": lambda: noise_module.depolarizing_error(4 * p / 3, 1),
        "bit_flip": lambda: noise_module.pauli_error([("X", p), ("I", 1 - p)]),
        "phase_flip": lambda: noise_module.pauli_error([("Z", p), ("I", 1 - p)]),
        "phase_damping": lambda: noise_module.phase_damping_error(p),
        "amplitude_damping": lambda: noise_module.amplitude_damping_error(p),
    }[channel.name]()


def aer_model(noise):
    """The same noise in Aer."""
    model = noise_module.NoiseModel(basis_gates=["id", *NATIVE.values()])
    for names, channels, n_wires in (
        ([NATIVE[name] for name in ONE_WIRE], noise.one_wire, 1),
        (["cx", "cz", "rzz"], noise.two_wire, 2),
    ):
        error = None
        for channel in channels:
            if isinstance(channel, PauliChannel):
                step = pauli_error(channel)
                step = step.tensor(step) if channel.n_wires < n_wires else step
            else:
                step = one_wire_error(channel)
                step = step.tensor(step) if n_wires == 2 else step
            error = step if error is None else error.compose(step)
        if error is not None:
            model.add_all_qubit_quantum_error(error, names)
    if noise.readout_error:
        e = noise.readout_error
        model.add_all_qubit_readout_error(noise_module.ReadoutError([[1 - e, e], [e, 1 - e]]))
    return model


def aer_density(noise):
    circuit = to_qiskit(CIRCUIT, ANGLES)
    circuit.save_density_matrix()
    simulator = aer.AerSimulator(method="density_matrix", noise_model=aer_model(noise))
    return simulator.run(circuit, shots=1).result().data()["density_matrix"]


NOISES = {
    "depolarising": NoiseModel((Channel("depolarising", 0.03),), (Channel("depolarising", 0.05),)),
    "dephasing": NoiseModel((Channel("phase_flip", 0.04),), (Channel("phase_damping", 0.1),)),
    "bit flips": NoiseModel((Channel("bit_flip", 0.02),), (Channel("bit_flip", 0.05),)),
    "two-wire Pauli": NoiseModel(two_wire=(PauliChannel(("XI", "ZY", "YX"), (0.06, 0.05, 0.03)),)),
    "correlated depolarising": NoiseModel(two_wire=(PauliChannel.depolarising(0.1),)),
    "all": NoiseModel(
        (Channel("depolarising", 0.02), PauliChannel(("Y",), (0.02,))),
        (PauliChannel.depolarising(0.03), Channel("phase_flip", 0.03)),
    ),
}
DAMPED = NoiseModel((Channel("amplitude_damping", 0.04),), (Channel("amplitude_damping", 0.1),))
WORDS = ["ZII", "IZI", "IIZ", "XXI", "YIY", "ZXY", "XYZ"]


def assert_within_five_errors(values, expected):
    """The mean over the first dimension against exact numbers; exact ones that do not scatter must agree."""
    errors = values.std(0) / len(values) ** 0.5
    off = (values.mean(0) - expected).abs()
    assert bool((off <= 5 * errors + 1e-9).all()), (off / errors).max()
    assert float(errors.max()) > 0


@pytest.mark.parametrize("name", NOISES)
def test_trajectories_have_the_expectations_of_aers_density_matrix(name):
    rho = aer_density(NOISES[name])
    assert abs(rho.purity() - 1) > 0.05
    expected = [rho.expectation_value(quantum_info.Pauli(word)).real for word in WORDS]
    generator = torch.Generator().manual_seed(0)
    values = noisy_trajectories(CIRCUIT, None, ANGLES, NOISES[name], 8000, readout=WORDS, generator=generator)
    assert_within_five_errors(values, torch.tensor(expected, dtype=torch.float64))
    chances = noisy_trajectories(
        CIRCUIT, None, ANGLES, NOISES[name], 8000, readout="probabilities", generator=generator
    )
    assert_within_five_errors(chances, torch.from_numpy(rho.probabilities()))


@pytest.mark.parametrize("name", [*NOISES, "damping"])
def test_trajectories_of_states_average_to_aers_density_matrix(name):
    noise = DAMPED if name == "damping" else NOISES[name]
    generator = torch.Generator().manual_seed(1)
    states = simulate_noisy(CIRCUIT, ANGLES, noise, 6000, generator=generator).to(torch.complex128)
    each = torch.view_as_real(reduced_state(states, range(3))).flatten(1)
    rho = torch.view_as_real(torch.from_numpy(aer_density(noise).data).contiguous()).flatten()
    # The norm of a damped trajectory is 1 to rounding, and its trace does not scatter.
    errors = each.std(0) / 6000**0.5
    assert bool(((each.mean(0) - rho).abs() <= 5 * errors + 1e-7).all())


def test_readout_error_is_aers_assignment_of_bits():
    noise = NoiseModel(NOISES["all"].one_wire, NOISES["all"].two_wire, readout_error=0.08)
    e = noise.readout_error
    exact = torch.from_numpy(aer_density(noise).probabilities())
    assign = torch.tensor([[1 - e, e], [e, 1 - e]], dtype=torch.float64)
    expected = torch.kron(torch.kron(assign, assign), assign) @ exact
    values = noisy_trajectories(
        CIRCUIT, None, ANGLES, noise, 8000, readout="probabilities", generator=torch.Generator().manual_seed(2)
    )
    assert_within_five_errors(values, expected)


def test_counts_with_shots_agree_with_aers():
    noise = NoiseModel((Channel("depolarising", 0.02),), (PauliChannel.depolarising(0.05),), readout_error=0.03)
    n_shots = 20_000
    circuit = to_qiskit(CIRCUIT, ANGLES)
    circuit.measure_all()
    simulator = aer.AerSimulator(method="density_matrix", noise_model=aer_model(noise), seed_simulator=7)
    theirs = simulator.run(circuit, shots=n_shots).result().get_counts()
    generator = torch.Generator().manual_seed(3)
    ours = noisy_run(
        CIRCUIT, None, ANGLES, noise, n_shots, readout="probabilities", n_shots=n_shots, generator=generator
    )
    assert float(ours.sum()) == pytest.approx(1)
    for index, share in enumerate(ours.tolist()):
        other = theirs.get(format(index, "03b"), 0) / n_shots
        mean = (share + other) / 2
        assert abs(share - other) <= 5 * math.sqrt(2 * mean * (1 - mean) / n_shots)
    # Shots of states count alike.
    states = simulate_noisy(CIRCUIT, ANGLES, NoiseModel(noise.one_wire, noise.two_wire), 4000, generator=generator)
    each = counts(sample(states, 1, generator=generator), 3)
    assert sum(each.values()) == 4000
