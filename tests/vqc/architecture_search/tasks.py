"""Small labelled tasks for the tests of the search."""

import torch

from ketune.vqc.problems import LabelledData, Rows


def task(name="task-0", seed=0, n=96, n_features=16) -> LabelledData:
    """Two classes of rows: a smooth bump on the left or on the right, in noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (2 * n,), generator=generator)
    places = torch.linspace(-1, 1, n_features)
    centres = torch.where(y == 0, -0.4, 0.4)[:, None] + 0.1 * seed
    x = (-((places - centres) ** 2) / 0.1).exp() + 0.3 * torch.randn(2 * n, n_features, generator=generator)
    parts = (slice(0, n), slice(n, n + n // 2), slice(n + n // 2, 2 * n))
    return LabelledData(name, *(Rows(x[part], y[part]) for part in parts), 2, (n_features,))
