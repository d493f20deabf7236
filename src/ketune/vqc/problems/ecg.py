"""Synthetic heartbeats: eight patients in turn, normal and ventricular beats as sums of Gaussian waves.

The twin of the electrocardiogram tasks of continual architecture search (arXiv 2601.06392), which need a download. A
beat is a sum of Gaussians for its waves P, Q, R, S and T (P. E. McSharry et al., IEEE Trans. Biomed. Eng. 50, 289,
2003); a ventricular beat has no P wave, a wide QRS complex and an inverted T wave.
"""

from __future__ import annotations

import numpy as np
import torch

from ketune.vqc.problems.base import LabelledData
from ketune.vqc.problems.splitting import labelled, stratified_parts

N_PATIENTS = 8
"""Number of tasks."""

N_SAMPLES = 256
"""Samples of a beat, over 0.6 s before and after its R peak."""

# Centre and width in seconds, height against a normal R peak: P, Q, R, S, T.
_NORMAL = np.array(
    [[-0.18, 0.025, 0.15], [-0.035, 0.010, -0.12], [0.0, 0.012, 1.0], [0.035, 0.012, -0.22], [0.26, 0.050, 0.30]]
)
_VENTRICULAR = np.array(
    [[-0.18, 0.025, 0.0], [-0.060, 0.030, -0.15], [0.0, 0.038, 1.05], [0.085, 0.036, -0.45], [0.30, 0.065, -0.32]]
)
_SPREAD = np.array([0.012, 0.18, 0.22])  # from beat to beat: of centres in seconds, of widths and heights relative
_DRIFT = np.array([0.010, 0.12, 0.20])  # the same from patient to patient


def ecg(n_rows: int = 800, patient: int = 0, seed: int = 0, ventricular: float = 0.3) -> LabelledData:
    """The beats of one patient: normal (class 0) and ventricular (class 1), split 80 / 10 / 10.

    Patients differ in the shape of their waves, and the more the later they come: each drifts from the one before. All
    beats have their own shapes, a wandering baseline and noise; three in ten ventricular beats are fused with a normal
    one, and three in twenty normal beats are conducted aberrantly, so that no model can be right always. A beat is
    brought to mean 0 and deviation 1 and cut at 5, as in the original; then each sample is standardised by the training
    beats.

    Args:
        n_rows: number of beats, at least 50.
        patient: 0 to 7.
        seed: decides patients, beats and split.
        ventricular: share of ventricular beats, 0.1 to 0.9.

    Raises:
        ValueError: for another patient, too few beats or another share.

    Example:
        >>> ecg(100, patient=3).train.x.shape
        torch.Size([80, 256])
    """
    if not 0 <= patient < N_PATIENTS:
        raise ValueError(f"ecg: patient={patient}; choose 0 to {N_PATIENTS - 1}")
    if n_rows < 50 or not 0.1 <= ventricular <= 0.9:
        raise ValueError(f"ecg: n_rows={n_rows}, ventricular={ventricular}; take at least 50 beats and 0.1 to 0.9")
    shapes = _patients(seed)[patient]
    numbers = np.random.default_rng((seed, patient))
    n_ventricular = round(ventricular * n_rows)
    y = torch.from_numpy(numbers.permutation(np.arange(n_rows) < n_ventricular)).long()
    x = torch.from_numpy(_beats(y.numpy(), shapes, numbers)).float()
    parts = stratified_parts(y, (0.8, 0.1, 0.1), numbers)
    return labelled(f"ecg-{patient}", x, y, (parts[0], parts[1], parts[2]), 2, (N_SAMPLES,), "columns")


def ecg_tasks(n_rows: int = 800, seed: int = 0, ventricular: float = 0.3) -> tuple[LabelledData, ...]:
    """All eight patients in their order; arguments and errors as `ecg`."""
    return tuple(ecg(n_rows, patient, seed, ventricular) for patient in range(N_PATIENTS))


def _patients(seed: int) -> list[np.ndarray]:
    """For each patient the waves of normal and ventricular beats: (2, 5 waves, 3)."""
    numbers = np.random.default_rng((seed, N_PATIENTS))
    shapes = [np.stack((_NORMAL, _VENTRICULAR))]
    while len(shapes) < N_PATIENTS:
        shapes.append(_varied(shapes[-1], _DRIFT, numbers))
    return shapes


def _varied(waves: np.ndarray, amounts: np.ndarray, numbers: np.random.Generator) -> np.ndarray:
    """Waves (..., 5, 3) with centres shifted, and widths and heights stretched, at random."""
    shifts = amounts * numbers.standard_normal(waves.shape)
    shifts[..., 2, 0] = 0  # the R peak is what a beat is centred on
    centres = waves[..., 0] + shifts[..., 0]
    stretched = waves[..., 1:] * np.exp(shifts[..., 1:])
    return np.concatenate((centres[..., None], stretched), -1)


def _beats(y: np.ndarray, shapes: np.ndarray, numbers: np.random.Generator) -> np.ndarray:
    seconds = np.linspace(-0.6, 0.6, N_SAMPLES)
    n_rows = len(y)
    signals = [_signal(_varied(np.repeat(shapes[kind][None], n_rows, 0), _SPREAD, numbers), seconds) for kind in (0, 1)]
    mixed = numbers.random(n_rows)
    fused, aberrant = (y == 1) & (mixed < 0.3), (y == 0) & (mixed < 0.15)
    share = np.where(fused, numbers.uniform(0.35, 0.65, n_rows), y)  # of the ventricular shape
    share = np.where(aberrant, numbers.uniform(0.2, 0.5, n_rows), share)[:, None]
    beats = (1 - share) * signals[0] + share * signals[1]
    phase = numbers.uniform(0, 2 * np.pi, (n_rows, 1))
    beats += numbers.uniform(0, 0.15, (n_rows, 1)) * np.sin(2 * np.pi * 0.3 * seconds + phase)
    beats += numbers.uniform(0.05, 0.25, (n_rows, 1)) * numbers.standard_normal((n_rows, N_SAMPLES))
    beats -= beats.mean(1, keepdims=True)
    return (beats / beats.std(1, keepdims=True)).clip(-5, 5)


def _signal(waves: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Waves (n, 5, 3) as (n, 256) samples."""
    centre, width, height = (waves[..., k, None] for k in range(3))
    return (height * np.exp(-((seconds - centre) ** 2) / (2 * width**2))).sum(1)
