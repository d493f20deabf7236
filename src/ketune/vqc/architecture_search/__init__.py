"""Choosing a circuit: CL-QAS beside random and exhaustive search, over one task or many.

arXiv 2601.06392. A space of 336 circuits, scored by training each as a classifier of amplitude-encoded rows; a policy
that learns which do well, and does not forget it over tasks; the result is a circuit file (`ketune.vqc.circuit_file`).
"""

from ketune.vqc.architecture import ENTANGLERS, Architecture, ArchitectureError
from ketune.vqc.architecture_search.continual import ContinualSearch
from ketune.vqc.architecture_search.elastic import ElasticPenalty, diagonal_fisher, named_subset
from ketune.vqc.architecture_search.features import TrainFeatures, encode, train_features
from ketune.vqc.architecture_search.policy import ArchitecturePolicy, Choices
from ketune.vqc.architecture_search.reinforce import Reinforce, ReinforceSettings, reinforce_search
from ketune.vqc.architecture_search.scoring import (
    CircuitClassifier,
    CircuitScorer,
    ClassifierTraining,
    FinalModel,
    Quality,
    Score,
    evaluate,
    quality,
    train_classifier,
    train_final,
)
from ketune.vqc.architecture_search.settings import STRATEGIES, SearchSettings, make_strategy
from ketune.vqc.architecture_search.space import SearchError, SearchSpace
from ketune.vqc.architecture_search.strategies import (
    Evaluation,
    ExhaustiveSearch,
    RandomSearch,
    SearchResult,
    Strategy,
    exhaustive_search,
    random_search,
)
from ketune.vqc.architecture_search.task_result import TaskResult
from ketune.vqc.architecture_search.transfer import backward_transfer, forward_transfer

__all__ = [
    "ENTANGLERS",
    "STRATEGIES",
    "Architecture",
    "ArchitectureError",
    "ArchitecturePolicy",
    "Choices",
    "CircuitClassifier",
    "CircuitScorer",
    "ClassifierTraining",
    "ContinualSearch",
    "ElasticPenalty",
    "Evaluation",
    "ExhaustiveSearch",
    "FinalModel",
    "Quality",
    "RandomSearch",
    "Reinforce",
    "ReinforceSettings",
    "Score",
    "SearchError",
    "SearchResult",
    "SearchSettings",
    "SearchSpace",
    "Strategy",
    "TaskResult",
    "TrainFeatures",
    "backward_transfer",
    "diagonal_fisher",
    "encode",
    "evaluate",
    "exhaustive_search",
    "forward_transfer",
    "make_strategy",
    "named_subset",
    "quality",
    "random_search",
    "reinforce_search",
    "train_classifier",
    "train_features",
    "train_final",
]
