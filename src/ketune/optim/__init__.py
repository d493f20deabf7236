"""Optimisers that know nothing of language models."""

from ketune.optim.proximal import Proximal, released_threshold, soft_threshold, sparsity_phases
from ketune.optim.superpositional import SuperpositionalAdamW
from ketune.optim.zeroth_order import ZerothOrder

__all__ = ["Proximal", "SuperpositionalAdamW", "ZerothOrder", "released_threshold", "soft_threshold", "sparsity_phases"]
