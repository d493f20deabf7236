"""Tensor networks as linear maps."""
