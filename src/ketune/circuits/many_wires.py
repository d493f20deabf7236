"""<Z> on every wire for circuits of any width, with and without Pauli noise: for classifiers of 15 to 20 wires.

Up to 14 wires `run` does it for whole batches. Beyond that states are large, so that they are made a few at a time by
`evolve`, and where a batch of them would not fit, made again on the way back.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ketune.circuits._dtypes import compute_dtype
from ketune.circuits._pauli_frames import FramedCircuit, framed
from ketune.circuits._product_states import product_states
from ketune.circuits.adjoint import evolve
from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.noise import NoiseModel
from ketune.circuits.statevector import MAX_WIRES, run

_CHUNK = 2**20
"""Amplitudes that are evolved at once: one state of 20 wires, 32 of 15."""
_KEPT = 2**23
"""Amplitudes of all samples up to which states are kept for the way back rather than made again."""


def read_pauli_z(
    circuit: Circuit,
    x: Tensor,
    angles: Tensor,
    *,
    encoding: str = "angle",
    noise: NoiseModel | None = None,
    n_trajectories: int = 16,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The expectation of Z on every wire, for any number of wires that memory holds.

    Equal to `run(circuit, x, angles, encoding=encoding)`, and that up to 14 wires. Wider circuits take a state of
    20 wires one after another, in about 150 MiB beyond 300 MiB for the batch, however large it is.

    Noise. Each sample's readouts are means over trajectories of its own, unbiased, as their gradients are. With
    encoding "angle" its RY gates are gates of the circuit, and noise follows them too; amplitudes are loaded without
    noise. Channels are mixtures of Paulis, as for `noisy_run`.

    Args:
        circuit: the circuit.
        x: (..., n_features) features: angles of RY on wires 0, 1, ... for "angle", else up to `2 ** n_wires`
            amplitudes, padded on the right and normalised.
        angles: (n_angles,) angles in radians, or (..., n_angles) that broadcast with the features.
        encoding: "angle" or "amplitude".
        noise: noise after the gates and in the readout; None for exact expectations.
        n_trajectories: trajectories of each sample.
        generator: source of the noise on the angles' device; the global one when None.

    Returns:
        (..., n_wires) in float32, or float64 when features or angles are.

    Raises:
        ValueError: for another encoding, features or angles that do not fit, or noise that is not made of Paulis.

    Example:
        >>> import torch
        >>> from ketune.circuits import read_pauli_z, rxryrz_ring
        >>> circuit = rxryrz_ring(16, 1)
        >>> read_pauli_z(circuit, torch.zeros(2, 16), torch.zeros(48))[1, :3]
        tensor([1., 1., 1.])
    """
    largest = {"angle": circuit.n_wires, "amplitude": 2**circuit.n_wires}
    if encoding not in largest:
        raise ValueError(f"encoding={encoding!r}: read_pauli_z takes 'angle' or 'amplitude'")
    if x.ndim == 0 or not 1 <= x.shape[-1] <= largest[encoding]:
        raise ValueError(
            f"features of shape {tuple(x.shape)}: {encoding} encoding on {circuit.n_wires} wires takes 1 to "
            f"{largest[encoding]}"
        )
    if angles.ndim == 0 or angles.shape[-1] != circuit.n_angles:
        raise ValueError(f"angles have shape {tuple(angles.shape)}; this circuit takes (..., {circuit.n_angles})")
    if noise is None:
        return _exact(circuit, x, angles, encoding)
    if n_trajectories < 1:
        raise ValueError(f"n_trajectories={n_trajectories}: take at least 1")
    if not noise.is_pauli:
        raise ValueError("read_pauli_z: amplitude damping is no mixture of Paulis; use simulate_noisy")
    n_uploads = x.shape[-1] if encoding == "angle" else 0
    program, inner = _framed(circuit, noise, n_uploads)
    lead = torch.broadcast_shapes(x.shape[:-1], angles.shape[:-1])
    turned, paulis = program.draw((n_trajectories, *lead), angles.device, generator)
    own = program.angles(torch.cat((angles.new_zeros(*angles.shape[:-1], n_uploads), angles), -1))
    own = torch.where(turned, -own, own)[..., n_uploads:]
    out = _exact(inner, x.expand(n_trajectories, *lead, x.shape[-1]), own, encoding)
    return (1 - 2 * noise.readout_error) * (out * (1 - 2 * paulis.x.to(out))).mean(0)


@lru_cache(maxsize=32)
def _framed(circuit: Circuit, noise: NoiseModel, n_uploads: int) -> tuple[FramedCircuit, Circuit]:
    """The circuit behind RY gates on the first wires, ready for noise, and the same without these gates."""
    uploads = Circuit(circuit.n_wires, tuple(Gate("RY", (wire,), wire) for wire in range(n_uploads)))
    program = framed(uploads + circuit, noise)
    gates = (
        gate if gate.angle is None else Gate(gate.name, gate.wires, gate.angle - n_uploads)
        for gate in program.circuit.gates[n_uploads:]
    )
    return program, Circuit(circuit.n_wires, tuple(gates))


def _exact(circuit: Circuit, x: Tensor, angles: Tensor, encoding: str) -> Tensor:
    if circuit.n_wires <= MAX_WIRES:
        return run(circuit, x, angles, encoding=encoding)
    dtype = compute_dtype(x, angles)
    lead = torch.broadcast_shapes(x.shape[:-1], angles.shape[:-1])
    n_samples, n_wires = math.prod(lead), circuit.n_wires
    rows = x.to(dtype).expand(*lead, x.shape[-1]).reshape(n_samples, x.shape[-1])
    angles = angles.to(dtype)
    shared = math.prod(angles.shape[:-1]) == 1
    sets = angles.reshape(-1) if shared else angles.expand(*lead, angles.shape[-1]).reshape(n_samples, -1)
    together = max(1, _CHUNK >> n_wires)
    wants = torch.is_grad_enabled() and (rows.requires_grad or sets.requires_grad)
    again = wants and n_samples << n_wires > _KEPT
    parts = []
    for first in range(0, n_samples, together):
        here = slice(first, first + together)
        own = sets if shared else sets[here]
        if again:
            parts.append(checkpoint(_read, circuit, rows[here], own, encoding, use_reentrant=False))
        else:
            parts.append(_read(circuit, rows[here], own, encoding))
    if not parts:
        return rows.new_zeros(*lead, n_wires)
    return torch.cat(parts).view(*lead, n_wires)


def _read(circuit: Circuit, rows: Tensor, angles: Tensor, encoding: str) -> Tensor:
    """Readouts of a chunk of samples, with a set of angles for all or for each."""
    n_wires = circuit.n_wires
    with torch.autocast(rows.device.type, enabled=False):
        if encoding == "angle":
            states = product_states(rows, n_wires)
        else:
            norms = rows.square().sum(-1, keepdim=True).clamp_min(1e-30).sqrt()  # as `run`
            states = torch.nn.functional.pad(rows / norms, (0, 2**n_wires - rows.shape[1]))
        if len(rows) == 1:  # one set for all: larger blocks
            states, angles = states[0], angles.reshape(-1)
        return _pauli_z(evolve(circuit, angles, states)).view(len(rows), n_wires)


def _pauli_z(states: Tensor) -> Tensor:
    """<Z> on every wire of (..., 2 ** n) normalised states: sums over halves of the wires, then signs."""
    n_wires = states.shape[-1].bit_length() - 1
    weights = torch.view_as_real(states).square().sum(-1) if states.is_complex() else states.square()
    first = n_wires // 2
    weights = weights.unflatten(-1, (2**first, -1))
    return torch.cat((weights.sum(-1) @ _signs(first, weights), weights.sum(-2) @ _signs(n_wires - first, weights)), -1)


def _signs(n_wires: int, like: Tensor) -> Tensor:
    """(2 ** n, n) eigenvalues of Z on each wire."""
    index = torch.arange(2**n_wires, device=like.device)
    bits = (index[:, None] >> torch.arange(n_wires - 1, -1, -1, device=like.device)) & 1
    return (1 - 2 * bits).to(like.dtype)
