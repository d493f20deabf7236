"""Quantum circuits: descriptions, ansätze, a batched differentiable simulator, measures of expressiveness, exports."""

from ketune.circuits._costs import calibrate
from ketune.circuits._imported import Imported, ImportingError
from ketune.circuits.adjoint import evolve, expectation
from ketune.circuits.analysis import entangling_capability, expressibility
from ketune.circuits.ansatz import (
    ANSATZE,
    ENTANGLERS,
    crz_ring,
    crz_two_rings,
    ring_rxryrz,
    rot_gates,
    rxryrz_ring,
    ry_ring,
    ryrz_ring_ry,
    simplified_two_design,
    strongly_entangling,
    with_uploads,
)
from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.device_layer import DeviceLayer
from ketune.circuits.device_runner import DeviceRunner
from ketune.circuits.devices import DEVICES, Device, DeviceError, open_device
from ketune.circuits.export import draw, to_openqasm3, to_pennylane, to_qiskit
from ketune.circuits.hamiltonian import Hamiltonian, heisenberg, max_cut, transverse_ising
from ketune.circuits.importing import from_openqasm3, from_pennylane, from_qiskit
from ketune.circuits.job_costs import CostEstimate, cost_estimate
from ketune.circuits.layer import QuantumLayer
from ketune.circuits.many_wires import read_pauli_z
from ketune.circuits.noise import CHANNELS, Channel, NoiseModel, PauliChannel
from ketune.circuits.observables import ENCODINGS, READOUTS, check_readout, count_readouts
from ketune.circuits.pauli_noise import noisy_run, noisy_trajectories
from ketune.circuits.qnode_layer import layer_from_qnode
from ketune.circuits.sampling import Estimate, counts, estimate, misread, sample, to_bits
from ketune.circuits.simulate import simulate
from ketune.circuits.states import entropy, fidelity, meyer_wallach, mutual_information, purity, reduced_state
from ketune.circuits.statevector import MAX_WIRES, run
from ketune.circuits.trajectories import noisy_expectation, simulate_noisy

__all__ = [
    "ANSATZE",
    "CHANNELS",
    "DEVICES",
    "ENCODINGS",
    "ENTANGLERS",
    "MAX_WIRES",
    "READOUTS",
    "Channel",
    "Circuit",
    "CostEstimate",
    "Device",
    "DeviceError",
    "DeviceLayer",
    "DeviceRunner",
    "Estimate",
    "Gate",
    "Hamiltonian",
    "Imported",
    "ImportingError",
    "NoiseModel",
    "PauliChannel",
    "QuantumLayer",
    "calibrate",
    "check_readout",
    "cost_estimate",
    "count_readouts",
    "counts",
    "crz_ring",
    "crz_two_rings",
    "draw",
    "entangling_capability",
    "entropy",
    "estimate",
    "evolve",
    "expectation",
    "expressibility",
    "fidelity",
    "from_openqasm3",
    "from_pennylane",
    "from_qiskit",
    "heisenberg",
    "layer_from_qnode",
    "max_cut",
    "meyer_wallach",
    "misread",
    "mutual_information",
    "noisy_expectation",
    "noisy_run",
    "noisy_trajectories",
    "open_device",
    "purity",
    "read_pauli_z",
    "reduced_state",
    "ring_rxryrz",
    "rot_gates",
    "run",
    "rxryrz_ring",
    "ry_ring",
    "ryrz_ring_ry",
    "sample",
    "simplified_two_design",
    "simulate",
    "simulate_noisy",
    "strongly_entangling",
    "to_bits",
    "to_openqasm3",
    "to_pennylane",
    "to_qiskit",
    "transverse_ising",
    "with_uploads",
]
