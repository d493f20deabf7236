"""Optimisers that know nothing of language models."""

from ketune.optim.proximal import Proximal, released_threshold, soft_threshold, sparsity_phases
from ketune.optim.zeroth_order import ZerothOrder

__all__ = ["Proximal", "ZerothOrder", "released_threshold", "soft_threshold", "sparsity_phases"]
