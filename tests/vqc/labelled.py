"""Small labelled data for tests of training."""

import torch

from ketune.vqc.problems.base import LabelledData, Rows


def blobs(n_classes=2, n_features=16, n_rows=60, seed=0, spread=0.7):
    """Clouds around random centres, easy to tell apart."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_classes, n_features, generator=generator)
    parts = []
    for n in (n_rows, n_rows // 2, n_rows):
        y = torch.arange(n) % n_classes
        parts.append(Rows(centres[y] + spread * torch.randn(n, n_features, generator=generator), y))
    return LabelledData(f"blobs-{seed}", *parts, n_classes, (n_features,))
