"""The policy of CL-QAS: a small transformer that looks at training rows and says how likely each circuit is.

arXiv 2601.06392, revised form. A policy is a distribution over depths and, for each layer, one over entanglers; a
circuit of depth d has the probability p(d) p_1(e_1) ... p_d(e_d). Layers that the depth does not use don't count. All
that the search needs (probabilities, entropy, divergence from another policy) follows exactly, without sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ketune.vqc.architecture import Architecture
from ketune.vqc.architecture_search.space import SearchError, SearchSpace

CONTEXT_ROWS = 192
"""At most so many training rows are shown to the policy."""

_WIDTH, _HEADS, _LAYERS, _FEEDFORWARD, _DROPOUT = 64, 8, 2, 128, 0.1


@dataclass(frozen=True, eq=False)
class Choices:
    """A distribution over the architectures of a space, as a policy gives it for one task.

    Args:
        space: the architectures.
        depth: (n_depths,) log-probabilities of the depths.
        layers: (max_depth, n_entanglers) log-probabilities of the entanglers of each layer.
    """

    space: SearchSpace
    depth: Tensor
    layers: Tensor

    def log_probability(self, architectures: Sequence[Architecture]) -> Tensor:
        """(n,) log-probabilities, differentiable.

        Raises:
            SearchError: for an architecture outside the space.
        """
        return torch.stack([self._log_probability(architecture) for architecture in architectures])

    def _log_probability(self, architecture: Architecture) -> Tensor:
        if architecture not in self.space:
            raise SearchError(f"architecture {architecture}: not in the space {self.space.to_dict()}")
        names = self.space.entanglers
        chosen = torch.tensor([names.index(name) for name in architecture.entanglers])
        used = self.layers[torch.arange(architecture.depth), chosen]
        return self.depth[self.space.depths.index(architecture.depth)] + used.sum()

    def sample(self, n: int, generator: torch.Generator | None = None) -> list[Architecture]:
        """Draws architectures, with replacement."""
        with torch.no_grad():
            depths = torch.multinomial(self.depth.exp(), n, replacement=True, generator=generator)
            drawn = torch.multinomial(self.layers.exp(), n, replacement=True, generator=generator)
        found = []
        for k in range(n):
            depth = self.space.depths[int(depths[k])]
            found.append(self.space.build([self.space.entanglers[int(e)] for e in drawn[:depth, k]]))
        return found

    def _used(self) -> Tensor:
        """(max_depth,) the probability that each layer is there."""
        deep = torch.tensor([[layer < d for d in self.space.depths] for layer in range(self.space.max_depth)])
        return deep.to(self.depth) @ self.depth.exp()

    def entropy(self) -> Tensor:
        """The entropy in nats, at most ln(number of architectures)."""
        of_layers = -(self.layers.exp() * self.layers).sum(-1)
        return -(self.depth.exp() * self.depth).sum() + (self._used() * of_layers).sum()

    def divergence(self, other: Choices) -> Tensor:
        """The Kullback-Leibler divergence KL(self || other) in nats.

        Raises:
            SearchError: for choices over another space.
        """
        if other.space != self.space:
            raise SearchError(f"choices over {self.space.to_dict()} and over {other.space.to_dict()}")
        of_layers = (self.layers.exp() * (self.layers - other.layers)).sum(-1)
        return (self.depth.exp() * (self.depth - other.depth)).sum() + (self._used() * of_layers).sum()

    def most_likely(self) -> Architecture:
        """The architecture of highest probability."""
        best = self.layers.max(-1)
        totals = torch.stack([self.depth[k] + best.values[:d].sum() for k, d in enumerate(self.space.depths)])
        depth = self.space.depths[int(totals.argmax())]
        return self.space.build([self.space.entanglers[int(e)] for e in best.indices[:depth]])


class ArchitecturePolicy(nn.Module):
    """Training rows in, a distribution over architectures out.

    Each row goes through Linear(n_features, 64), and the mean over rows is the first token of a sequence; one learned
    token for each layer follows. A transformer (2 layers, 8 heads, feed-forward 128, dropout 0.1) mixes them; the first
    token gives the depth, the others the entangler of each layer.

    Args:
        space: the architectures.
        n_features: length of a row.
        activation: "gelu" stands between the linear map and the mean; "none" is the published form, which sees no more
            of the rows than their mean, and that is nearly zero for standardised rows.
        seed: of the weights.

    Raises:
        SearchError: for an unknown activation, or no feature.
    """

    def __init__(self, space: SearchSpace, n_features: int, *, activation: str = "gelu", seed: int = 0) -> None:
        super().__init__()
        if activation not in ("gelu", "none") or n_features < 1:
            raise SearchError(
                f"ArchitecturePolicy(n_features={n_features}, activation={activation!r}): at least 1 feature, "
                f"and 'gelu' or 'none'"
            )
        self.space, self.n_features, self.activation = space, n_features, activation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Linear(n_features, _WIDTH)
            self.layer_tokens = nn.Parameter(0.02 * torch.randn(space.max_depth, _WIDTH))
            block = nn.TransformerEncoderLayer(_WIDTH, _HEADS, _FEEDFORWARD, _DROPOUT, batch_first=True)
            self.mixer = nn.TransformerEncoder(block, _LAYERS, enable_nested_tensor=False)
            self.depth_head = nn.Linear(_WIDTH, len(space.depths))
            self.layer_head = nn.Linear(_WIDTH, len(space.entanglers))
            # TransformerEncoder copies one block; independent layers need weights of their own.
            for layer in self.mixer.layers[1:]:
                for weight in layer.parameters():
                    if weight.ndim > 1:
                        nn.init.xavier_uniform_(weight)

    def forward(self, rows: Tensor) -> Choices:
        """(n, n_features) rows of a task to the distribution for it; rows beyond the first 192 are left out."""
        embedded = self.embed(rows[:CONTEXT_ROWS])
        embedded = nn.functional.gelu(embedded) if self.activation == "gelu" else embedded
        tokens = self.mixer(torch.cat((embedded.mean(0, keepdim=True), self.layer_tokens))[None])[0]
        depth = self.depth_head(tokens[0]).log_softmax(-1)
        return Choices(self.space, depth, self.layer_head(tokens[1:]).log_softmax(-1))

    def without_dropout(self, rows: Tensor) -> Choices:
        """`forward` with dropout off, whatever mode the policy is in; differentiable."""
        before = self.training
        self.eval()
        try:
            return self(rows)
        finally:
            self.train(before)
