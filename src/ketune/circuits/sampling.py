"""Measurements with a finite number of shots: samples, counts, estimates with their standard errors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ketune.circuits._pauli import basis_change, check_word, measurement_groups, word_signs
from ketune.circuits.circuit import Circuit
from ketune.circuits.hamiltonian import Hamiltonian, probabilities
from ketune.circuits.simulate import simulate


class Estimate(NamedTuple):
    """A mean and its standard error, both of the same shape."""

    value: Tensor
    error: Tensor


@torch.no_grad()
def sample(
    states: Tensor, n_shots: int, *, generator: torch.Generator | None = None, are_probabilities: bool = False
) -> Tensor:
    """Basis states as measured, by inverting the cumulative distribution in float64.

    Args:
        states: (..., N) states, or probabilities with `are_probabilities`; they need not be normalised.
        n_shots: number of measurements of each.
        generator: source of randomness on the states' device; the global one when None.
        are_probabilities: True when `states` are probabilities.

    Returns:
        (..., n_shots) int64 basis indices; `to_bits` splits them into wires.

    Raises:
        ValueError: for fewer than one shot, negative probabilities, or all of them zero or not finite.

    Example:
        >>> import torch
        >>> from ketune.circuits import counts, sample
        >>> bell = torch.tensor([1.0, 0.0, 0.0, 1.0]) / 2**0.5
        >>> sorted(counts(sample(bell, 100), 2))
        ['00', '11']
    """
    _check_shots(n_shots, 1)
    weights = states if are_probabilities else probabilities(states)
    if states.ndim == 0 or weights.is_complex() or bool((weights < 0).any()):
        raise ValueError("sample: pass states (..., N), or probabilities that are real and not negative")
    cumulative = weights.double().cumsum(-1)
    total = cumulative[..., -1:]
    if not bool(((total > 0) & total.isfinite()).all()):
        raise ValueError("sample: a state is zero or not finite; it has no measurement")
    uniform = torch.rand(*weights.shape[:-1], n_shots, dtype=torch.float64, device=states.device, generator=generator)
    # Never the total itself, so that the search ends on a basis state of positive probability.
    points = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, points, right=True)


def to_bits(samples: Tensor, n_wires: int) -> Tensor:
    """Basis indices (...) as bits (..., n_wires) of int64, wire 0 first.

    Example:
        >>> import torch
        >>> to_bits(torch.tensor([2, 3]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    return (samples[..., None] >> torch.arange(n_wires - 1, -1, -1, device=samples.device)) & 1


def counts(samples: Tensor, n_wires: int) -> dict[str, int]:
    """How often each bit string was measured, in rising order; wire 0 is the first bit.

    Args:
        samples: (...) basis indices, all counted together.
        n_wires: number of wires.

    Example:
        >>> import torch
        >>> counts(torch.tensor([3, 0, 3]), 2)
        {'00': 1, '11': 2}
    """
    values, numbers = samples.flatten().unique(return_counts=True)
    return {format(value, f"0{n_wires}b"): number for value, number in zip(values.tolist(), numbers.tolist())}


@torch.no_grad()
def misread(samples: Tensor, n_wires: int, probability: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Basis indices with every bit flipped with a probability: readout error.

    Args:
        samples: (...) basis indices.
        n_wires: number of wires.
        probability: of misreading one bit, equal for 0 and 1.
        generator: source of randomness; the global one when None.

    Returns:
        (...) basis indices.

    Raises:
        ValueError: for a probability outside 0..1.

    Example:
        >>> import torch
        >>> misread(torch.tensor([0, 2]), 2, 1.0).tolist()
        [3, 1]
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"misread(probability={probability}): choose 0 to 1")
    chances = torch.rand(*samples.shape, n_wires, dtype=torch.float64, device=samples.device, generator=generator)
    places = 1 << torch.arange(n_wires - 1, -1, -1, device=samples.device)
    return samples ^ ((chances < probability) * places).sum(-1)


@torch.no_grad()
def estimate(
    states: Tensor,
    observable: Hamiltonian | Sequence[str],
    n_shots: int,
    *,
    generator: torch.Generator | None = None,
    readout_error: float = 0.0,
) -> Estimate:
    """Expectations as a device would give them: from shots, in as few measurement settings as grouping finds.

    Words that one basis change makes diagonal are read from the same shots. The estimates are unbiased (of the misread
    device, with a readout error); the standard errors come from the scatter of the shots, so they include correlations
    between the words of a group, and are zero where all shots agree.

    Args:
        states: (..., 2 ** n_wires), normalised or not.
        observable: a Hamiltonian, or k Pauli words of one letter of IXYZ per wire.
        n_shots: measurements in each setting, at least 2; there are `len(hamiltonian.groups())` settings.
        generator: source of randomness on the states' device; the global one when None.
        readout_error: probability of misreading one bit, see `misread`.

    Returns:
        estimates and their standard errors, (...) for a Hamiltonian, (..., k) for words.

    Raises:
        ValueError: for fewer than two shots, or words that do not fit the states.

    Example:
        >>> import torch
        >>> from ketune.circuits import estimate
        >>> bell = torch.tensor([1.0, 0.0, 0.0, 1.0]) / 2**0.5
        >>> estimate(bell, ["XX", "ZZ"], 10).value.tolist()
        [1.0, 1.0]
    """
    _check_shots(n_shots, 2)
    words = observable.words if isinstance(observable, Hamiltonian) else tuple(observable)
    n_wires = (states.shape[-1] if states.ndim else 0).bit_length() - 1
    if not words or states.shape[-1:] != (2 ** max(n_wires, 0),):
        raise ValueError(f"estimate: {len(words)} words on states of shape {tuple(states.shape)}; pass (..., 2 ** n)")
    for word in words:
        check_word(word, n_wires, "observable")
    dtype, device = torch.float64, states.device
    values = torch.zeros(*states.shape[:-1], len(words), dtype=dtype, device=device)
    variances = torch.zeros_like(values)
    total = torch.zeros(states.shape[:-1], dtype=dtype, device=device)
    total_variance = torch.zeros_like(total)
    for basis, members in measurement_groups(words):
        turned = simulate(Circuit(n_wires, basis_change(basis)), states.new_zeros(0, dtype=states.real.dtype), states)
        shots = sample(turned, n_shots, generator=generator)
        if readout_error:
            shots = misread(shots, n_wires, readout_error, generator=generator)
        signs = word_signs([words[member] for member in members], shots)
        if isinstance(observable, Hamiltonian):
            weights = torch.tensor([observable.coefficients[member] for member in members], dtype=dtype, device=device)
            energies = signs @ weights
            total += energies.mean(-1)
            total_variance += energies.var(-1) / n_shots
        else:
            values[..., members] = signs.mean(-2)
            variances[..., members] = signs.var(-2) / n_shots
    if isinstance(observable, Hamiltonian):
        return Estimate(total, total_variance.sqrt())
    return Estimate(values, variances.sqrt())


def _check_shots(n_shots: int, least: int) -> None:
    if n_shots < least:
        raise ValueError(f"n_shots={n_shots}: take at least {least}")
