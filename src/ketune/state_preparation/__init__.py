"""Loading vectors into the amplitudes of a quantum device: how hard it is, circuits that do it, what they cost."""

from ketune.state_preparation.amortised import SharedLoader, learn_shared_loader
from ketune.state_preparation.aqce import aqce
from ketune.state_preparation.aqer import Loader, aqer
from ketune.state_preparation.blocks import BLOCKS, Block
from ketune.state_preparation.comparing import COMPARED, LoaderRow, compare_loaders, loaders_picture
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
from ketune.state_preparation.errors import LoadingError
from ketune.state_preparation.exact import isometry, multiplexor
from ketune.state_preparation.hardware_efficient import hardware_efficient
from ketune.state_preparation.low_rank import low_rank, schmidt_weights
from ketune.state_preparation.pair_circuit import PairCircuit, infidelities
from ketune.state_preparation.polishing import polish
from ketune.state_preparation.prepare import METHODS, LoadingOptions, prepare_state
from ketune.state_preparation.prepared import BASES, Counts, PreparedState, counts
from ketune.state_preparation.staircase import staircase
from ketune.state_preparation.train_states import TrainStates, aqer_train, load_train, polish_train, train_infidelity
from ketune.state_preparation.unitary_blocks import circuit_from_gates, circuit_from_unitaries
from ketune.state_preparation.vector_files import VectorFileError, read_vectors

__all__ = [
    "BASES",
    "BLOCKS",
    "COMPARED",
    "METHODS",
    "Block",
    "Counts",
    "DenseStates",
    "Disentangled",
    "Loadability",
    "Loader",
    "LoaderRow",
    "LoadingError",
    "LoadingOptions",
    "PairCircuit",
    "PreparedState",
    "SharedLoader",
    "TrainStates",
    "VectorFileError",
    "aqce",
    "aqer",
    "aqer_train",
    "as_states",
    "bloch_vectors",
    "circuit_from_gates",
    "circuit_from_unitaries",
    "compare_loaders",
    "counts",
    "disentangle",
    "entanglement",
    "hardware_efficient",
    "infidelities",
    "infidelity_bounds",
    "isometry",
    "learn_shared_loader",
    "load_train",
    "loadability",
    "loaders_picture",
    "low_rank",
    "multiplexor",
    "polish",
    "polish_train",
    "prepare_state",
    "product_angles",
    "read_vectors",
    "schmidt_weights",
    "staircase",
    "train_infidelity",
    "wire_entropies",
]
