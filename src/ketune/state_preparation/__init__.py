"""Loading vectors into the amplitudes of a quantum device: how hard it is, circuits that do it, what they cost."""

from ketune.state_preparation.amortised import SharedLoader, learn_shared_loader
from ketune.state_preparation.aqce import aqce
from ketune.state_preparation.aqer import Loader, aqer
from ketune.state_preparation.blocks import BLOCKS, Block
from ketune.state_preparation.disentangling import DenseStates, Disentangled, disentangle
from ketune.state_preparation.entanglement import (
    Loadability,
    as_states,
    bloch_vectors,
    entanglement,
    infidelity_bounds,
    loadability,
    product_angles,
    wire_entropies,
)
from ketune.state_preparation.hardware_efficient import hardware_efficient
from ketune.state_preparation.pair_circuit import PairCircuit, infidelities
from ketune.state_preparation.polishing import polish
from ketune.state_preparation.staircase import staircase
from ketune.state_preparation.train_states import TrainStates, aqer_train, load_train, polish_train, train_infidelity
from ketune.state_preparation.unitary_blocks import circuit_from_unitaries

__all__ = [
    "BLOCKS",
    "Block",
    "DenseStates",
    "Disentangled",
    "Loadability",
    "Loader",
    "PairCircuit",
    "SharedLoader",
    "TrainStates",
    "aqce",
    "aqer",
    "aqer_train",
    "as_states",
    "bloch_vectors",
    "circuit_from_unitaries",
    "disentangle",
    "entanglement",
    "hardware_efficient",
    "infidelities",
    "infidelity_bounds",
    "learn_shared_loader",
    "load_train",
    "loadability",
    "polish",
    "polish_train",
    "product_angles",
    "staircase",
    "train_infidelity",
    "wire_entropies",
]
