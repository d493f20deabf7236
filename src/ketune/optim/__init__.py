"""Optimisers that know nothing of language models."""

from ketune.optim.proximal import Proximal, released_threshold, soft_threshold, sparsity_phases

__all__ = ["Proximal", "released_threshold", "soft_threshold", "sparsity_phases"]
