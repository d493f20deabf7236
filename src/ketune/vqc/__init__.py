"""Training variational circuits: problems, starts and initialisers, encoders and hypernetworks, architecture search."""

from ketune.vqc.angle_maps import ANGLE_MAPS
from ketune.vqc.architecture import Architecture, ArchitectureError
from ketune.vqc.blocks import noisy
from ketune.vqc.circuit_file import CircuitFile, CircuitFileError, load_circuit_file, save_circuit
from ketune.vqc.classifier import CircuitClassifier, ParameterCounts
from ketune.vqc.controls import TrainOnlyClassifier
from ketune.vqc.descriptors import describe_angles
from ketune.vqc.flip import FlipDecoder
from ketune.vqc.hypernetwork import AngleHypernet
from ketune.vqc.initialiser import INITIALISERS, Initialiser, InitialiserError, load_initialiser
from ketune.vqc.learner import Learner
from ketune.vqc.meta_training import MetaHistory, meta_train, mixture, one_of, pool
from ketune.vqc.minimising import Trace, minimise
from ketune.vqc.optimisers import OPTIMISERS, make_optimiser
from ketune.vqc.pretraining import FrozenEncoder, pretrain_then_freeze
from ketune.vqc.problems.base import EnergyProblem, Family, LabelledData, Rows
from ketune.vqc.problems.batches import EnergyBatch, group_by_circuit
from ketune.vqc.problems.registry import FAMILIES, PROBLEMS, ProblemError, make_family, make_problem
from ketune.vqc.reducers import DenseReducer, PCAReducer, TTReducer
from ketune.vqc.starts import STARTS, Start
from ketune.vqc.training import History, accuracy, train_classifier

__all__ = [
    "ANGLE_MAPS",
    "FAMILIES",
    "INITIALISERS",
    "OPTIMISERS",
    "PROBLEMS",
    "STARTS",
    "AngleHypernet",
    "Architecture",
    "ArchitectureError",
    "CircuitClassifier",
    "CircuitFile",
    "CircuitFileError",
    "DenseReducer",
    "EnergyBatch",
    "EnergyProblem",
    "Family",
    "FlipDecoder",
    "FrozenEncoder",
    "History",
    "Initialiser",
    "InitialiserError",
    "LabelledData",
    "Learner",
    "MetaHistory",
    "PCAReducer",
    "ParameterCounts",
    "ProblemError",
    "Rows",
    "Start",
    "TTReducer",
    "Trace",
    "TrainOnlyClassifier",
    "accuracy",
    "describe_angles",
    "group_by_circuit",
    "load_circuit_file",
    "load_initialiser",
    "make_family",
    "make_optimiser",
    "make_problem",
    "meta_train",
    "minimise",
    "mixture",
    "noisy",
    "one_of",
    "pool",
    "pretrain_then_freeze",
    "save_circuit",
    "train_classifier",
]
