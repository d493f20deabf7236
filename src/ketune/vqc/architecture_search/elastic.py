"""Fisher-EWC: what a parameter has learned holds it in place, as strongly as the likelihood depends on it.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 114, 3521 (2017). Works on any named
tensors: the weights of a search policy, or the angles of a circuit, of which there are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ketune.vqc.architecture_search.space import SearchError


def named_subset(module: nn.Module, patterns: Sequence[str] = ("*",)) -> dict[str, Tensor]:
    """The trainable parameters of a module whose names match a pattern, such as `"*.angles"`.

    Raises:
        SearchError: when none does.
    """
    found: dict[str, Tensor] = {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not found:
        known = ", ".join(name for name, _ in module.named_parameters())
        raise SearchError(f"patterns {tuple(patterns)} match no trainable parameter of {known}")
    return found


def diagonal_fisher(log_probabilities: Iterable[Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The diagonal of the Fisher information: the mean over samples of (d log p / d parameter)^2.

    Args:
        log_probabilities: the log-probability of each sample as a scalar, sampled from the model itself. They may share
            a graph.
        parameters: what it is measured for, by name.

    Raises:
        SearchError: for no sample.
    """
    names = list(parameters)
    total = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    n = 0
    for log_probability in log_probabilities:
        gradients = torch.autograd.grad(
            log_probability, [parameters[name] for name in names], retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(names, gradients):
            if gradient is not None:
                total[name] += gradient.square()
        n += 1
    if not n:
        raise SearchError("no sample to measure Fisher information from; pass at least one log-probability")
    return {name: value / n for name, value in total.items()}


class ElasticPenalty:
    """1/2 sum_i F_i (p_i - a_i)^2 over named parameters.

    Args:
        fisher: the strength F of each entry, by name; not negative.
        anchor: the values a that are held, by name.

    Raises:
        SearchError: for other names or shapes on the two sides.

    Example:
        >>> import torch
        >>> penalty = ElasticPenalty({"angles": torch.tensor([2.0, 0.0])}, {"angles": torch.zeros(2)})
        >>> float(penalty({"angles": torch.tensor([3.0, 5.0])}))
        9.0
    """

    def __init__(self, fisher: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        _check_alike(fisher, anchor)
        self.fisher = {name: tensor.detach().clone() for name, tensor in fisher.items()}
        self.anchor = {name: tensor.detach().clone() for name, tensor in anchor.items()}

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The penalty at these values, a scalar.

        Raises:
            SearchError: for other names or shapes than the anchor's.
        """
        _check_alike(self.anchor, parameters)
        parts = [(self.fisher[n] * (parameters[n] - self.anchor[n]).square()).sum() for n in self.anchor]
        return 0.5 * torch.stack(parts).sum()

    def with_task(self, other: ElasticPenalty) -> ElasticPenalty:
        """The two penalties as one: it differs from their sum by a constant, so its gradient is the sum of theirs.

        Two parabolas make one: the strengths add up, and the anchor is their mean weighted by strength. Memory thus
        stays the same for any number of tasks.
        """
        _check_alike(self.anchor, other.anchor)
        fisher, anchor = {}, {}
        for name, ours in self.fisher.items():
            theirs = other.fisher[name]
            fisher[name] = ours + theirs
            mean = (ours * self.anchor[name] + theirs * other.anchor[name]) / fisher[name].clamp_min(1e-30)
            anchor[name] = torch.where(fisher[name] > 1e-30, mean, other.anchor[name])
        return ElasticPenalty(fisher, anchor)


def _check_alike(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    left, right = ({name: tuple(t.shape) for name, t in side.items()} for side in (ours, theirs))
    if left != right:
        different = sorted(set(left.items()) ^ set(right.items()))
        raise SearchError(f"parameters differ in name or shape: {different[:4]}; pass the same ones on both sides")
