"""Loading vectors into the amplitudes of a quantum device: how hard it is, circuits that do it, what they cost."""

from ketune.state_preparation.blocks import BLOCKS, Block
from ketune.state_preparation.pair_circuit import PairCircuit, infidelities
from ketune.state_preparation.polishing import polish

__all__ = ["BLOCKS", "Block", "PairCircuit", "infidelities", "polish"]
