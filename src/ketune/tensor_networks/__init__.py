"""Tensor networks: tensor trains, their decomposition, matrices and vectors of any size made of small cores."""

from ketune.tensor_networks.modes import balanced_modes
from ketune.tensor_networks.tensor_train import contract_train, decompose_tensor
from ketune.tensor_networks.train_matrix import TrainLinear, TrainMatrix, contract_matrix, transpose_cores
from ketune.tensor_networks.train_state import TrainState
from ketune.tensor_networks.train_vector import TrainVector

__all__ = [
    "TrainLinear",
    "TrainMatrix",
    "TrainState",
    "TrainVector",
    "balanced_modes",
    "contract_matrix",
    "contract_train",
    "decompose_tensor",
    "transpose_cores",
]
