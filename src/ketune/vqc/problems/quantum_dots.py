"""Charge stability diagrams of single and double quantum dots, simulated, with noise or without.

A device with two gates holds one dot or two; the picture of a charge sensor's slope against both voltages has one
family of lines or two, with small gaps where they meet. The recipe is a constant-interaction model (W. G. van der
Wiel et al., Rev. Mod. Phys. 75, 1, 2002) with thermal occupation, in units of the charging energy.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ketune.vqc.problems.base import LabelledData
from ketune.vqc.problems.splitting import labelled, stratified_parts

SIDE = 50
"""Pixels along each voltage."""

_NEARBY = 1  # electrons around the nearest whole number; others weigh less than exp(-8) at the highest temperature
_CHUNK = 100  # diagrams at once


def quantum_dots(n_rows: int = 2000, noisy: bool = False, seed: int = 0) -> LabelledData:
    """Single (class 0) and double dots (class 1), as many of each, split 70 / 10 / 20.

    The published data (Qi et al., arXiv 2411.08552) have 2,000 diagrams of 50 x 50 and cannot be redistributed; these
    are their synthetic twins. Logistic regression on `fft_features` solves them, which every model must be held
    against. One mean and one standard deviation of all training pixels scale all rows.

    Args:
        n_rows: number of diagrams, at least 20.
        noisy: adds the noise of `measurement_noise`.
        seed: decides diagrams, noise and split; the diagrams under the noise are those without.

    Raises:
        ValueError: for too few rows.

    Example:
        >>> data = quantum_dots(40)
        >>> data.train.x.shape, data.shape
        (torch.Size([28, 2500]), (50, 50))
    """
    if n_rows < 20:
        raise ValueError(f"quantum_dots: n_rows={n_rows}; take at least 20")
    numbers = np.random.default_rng(seed)
    y = torch.arange(n_rows) % 2
    images = torch.empty(n_rows, SIDE, SIDE)
    images[y == 0] = single_dots(int((y == 0).sum()), numbers)
    images[y == 1] = double_dots(int((y == 1).sum()), numbers)
    parts = stratified_parts(y, (0.7, 0.1, 0.2), numbers)
    if noisy:
        images += measurement_noise(n_rows, numbers)
    name = f"quantum-dots-{'noisy' if noisy else 'clean'}"
    return labelled(name, images.flatten(1), y, (parts[0], parts[1], parts[2]), 2, (SIDE, SIDE), "whole")


def single_dots(n_images: int, numbers: np.random.Generator) -> Tensor:
    """Diagrams of one dot that both gates fill: (n_images, 50, 50) float32, each between 0 and 1.

    The dot holds q = s (V1 + rho V2) + offset electrons on average over a period, with the energy (N - q)^2 / 2; rho is
    uniform in 0.6..1.6 and s in 0.8..1.2.
    """
    first, second = _voltages(n_images, numbers)
    rho, gain, offset = (_uniform(numbers, n_images, *bounds) for bounds in ((0.6, 1.6), (0.8, 1.2), (-0.5, 0.5)))
    kt = _uniform(numbers, n_images, 0.01, 0.05)
    wanted = gain * (first + rho * second) + offset
    nearby = torch.arange(-_NEARBY, _NEARBY + 1, dtype=torch.float32)
    electrons = wanted.round()[..., None] + nearby
    weights = (-((electrons - wanted[..., None]) ** 2) / 2 / kt[..., None]).softmax(-1)
    return _slopes(-(weights * electrons).sum(-1))


def double_dots(n_images: int, numbers: np.random.Generator) -> Tensor:
    """Diagrams of two coupled dots, each with a gate of its own: (n_images, 50, 50) float32, each between 0 and 1.

    E = E1 (N1 - n1)^2 / 2 + E2 (N2 - n2)^2 / 2 + Em (N1 - n1)(N2 - n2) with n1 = V1 + a1 V2 + o1 and likewise n2;
    E1, E2 uniform in 0.8..1.2, a1, a2 in 0.08..0.35, Em in 0.1..0.45 of the smaller of E1 and E2. The sensor weighs the
    dots with b1 and b2 in 0.5..1.
    """
    return torch.cat([_double_dots(min(_CHUNK, n_images - start), numbers) for start in range(0, n_images, _CHUNK)])


def _double_dots(n_images: int, numbers: np.random.Generator) -> Tensor:
    first, second = _voltages(n_images, numbers)
    cross = [_uniform(numbers, n_images, 0.08, 0.35) for _ in range(2)]
    offsets = [_uniform(numbers, n_images, -0.5, 0.5) for _ in range(2)]
    charging = [_uniform(numbers, n_images, 0.8, 1.2) for _ in range(2)]
    mutual = _uniform(numbers, n_images, 0.1, 0.45) * torch.minimum(*charging)
    sensor = [_uniform(numbers, n_images, 0.5, 1.0) for _ in range(2)]
    kt = _uniform(numbers, n_images, 0.01, 0.05)
    wanted = [first + cross[0] * second + offsets[0], second + cross[1] * first + offsets[1]]
    nearby = torch.cartesian_prod(*[torch.arange(-_NEARBY, _NEARBY + 1, dtype=torch.float32)] * 2)
    electrons = [n.round()[..., None] + nearby[:, dot] for dot, n in enumerate(wanted)]
    off = [there - n[..., None] for there, n in zip(electrons, wanted)]
    energy = sum(e[..., None] * d**2 / 2 for e, d in zip(charging, off)) + mutual[..., None] * off[0] * off[1]
    weights = (-energy / kt[..., None]).softmax(-1)
    held = [(weights * there).sum(-1) for there in electrons]
    return _slopes(-(sensor[0] * held[0] + sensor[1] * held[1]))


def measurement_noise(n_images: int, numbers: np.random.Generator) -> Tensor:
    """White noise of 0.25, 1/f noise of 0.2 and random telegraph steps of 0.2 in 3 % of the rows, each its amplitude.

    1/f noise is white noise divided by |k| in both dimensions, of unit deviation before its amplitude; a telegraph
    step lasts from its row to the next step.

    Returns:
        (n_images, 50, 50) float32.
    """
    white = 0.25 * _normal(numbers, n_images, SIDE, SIDE)
    frequencies = torch.from_numpy(np.fft.fftfreq(SIDE)).float()
    lengths = (frequencies[:, None] ** 2 + frequencies**2).sqrt()
    lengths[0, 0] = math.inf
    slow = torch.fft.ifft2(torch.fft.fft2(_normal(numbers, n_images, SIDE, SIDE)) / lengths).real
    slow = 0.2 * slow / slow.std((-2, -1), keepdim=True)
    steps = torch.from_numpy(numbers.random((n_images, SIDE)) < 0.03)
    telegraph = 0.2 * (steps.cumsum(-1) % 2).float()[..., None]
    return white + slow + telegraph


def fft_features(images: Tensor) -> Tensor:
    """The logarithms of the 288 lowest spatial frequencies: where lines lie no longer matters, only how they run.

    Args:
        images: (n, 50, 50), or rows of 2,500 pixels.

    Returns:
        (n, 288): |k_x| below 12 on one axis, -12..11 on the other, which is half of a real image's spectrum.
    """
    spectrum = torch.fft.rfft2(images.reshape(-1, SIDE, SIDE)).abs()
    low = torch.cat((spectrum[:, :12, :12], spectrum[:, -12:, :12]), 1)
    return (low + 1e-3).log().flatten(1)


def moments(images: Tensor) -> Tensor:
    """Mean, standard deviation and third central moment of each image: (n, 3)."""
    rows = images.flatten(1)
    mean, deviation = rows.mean(1), rows.std(1, correction=0)
    third = ((rows - mean[:, None]) ** 3).mean(1)
    return torch.stack((mean, deviation, third), 1)


def _voltages(n_images: int, numbers: np.random.Generator) -> tuple[Tensor, Tensor]:
    """V1 along the columns and V2 along the rows, from 0 to a span of 2 to 4: (n_images, 50, 50) each."""
    span = _uniform(numbers, n_images, 2.0, 4.0)
    sweep = torch.linspace(0, 1, SIDE)
    across, along = torch.broadcast_tensors(sweep, sweep[:, None])
    return span * across, span * along


def _slopes(sensor: Tensor) -> Tensor:
    """|ds/dV1| + |ds/dV2| by central differences, scaled so that the largest is 1."""
    along, across = torch.gradient(sensor, dim=(-2, -1))
    slopes = along.abs() + across.abs()
    return slopes / slopes.amax((-2, -1), keepdim=True).clamp_min(1e-6)


def _uniform(numbers: np.random.Generator, n_images: int, low: float, high: float) -> Tensor:
    return torch.from_numpy(numbers.uniform(low, high, (n_images, 1, 1))).float()


def _normal(numbers: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(numbers.standard_normal(shape, dtype=np.float32))
