"""Training variational circuits: problems, starts and initialisers, encoders and hypernetworks, architecture search."""

from ketune.vqc.initialiser import INITIALISERS, Initialiser, InitialiserError, load_initialiser
from ketune.vqc.minimising import Trace, minimise
from ketune.vqc.problems.base import EnergyProblem, LabelledData, Rows
from ketune.vqc.starts import STARTS, Start

__all__ = [
    "INITIALISERS",
    "STARTS",
    "EnergyProblem",
    "Initialiser",
    "InitialiserError",
    "LabelledData",
    "Rows",
    "Start",
    "Trace",
    "load_initialiser",
    "minimise",
]
