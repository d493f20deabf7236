"""Training variational circuits: problems, starts and initialisers, encoders and hypernetworks, architecture search."""

from ketune.vqc.flip import FlipDecoder
from ketune.vqc.initialiser import INITIALISERS, Initialiser, InitialiserError, load_initialiser
from ketune.vqc.learner import Learner
from ketune.vqc.minimising import Trace, minimise
from ketune.vqc.problems.base import EnergyProblem, LabelledData, Rows
from ketune.vqc.starts import STARTS, Start

__all__ = [
    "INITIALISERS",
    "STARTS",
    "EnergyProblem",
    "FlipDecoder",
    "Initialiser",
    "InitialiserError",
    "LabelledData",
    "Learner",
    "Rows",
    "Start",
    "Trace",
    "load_initialiser",
    "minimise",
]
