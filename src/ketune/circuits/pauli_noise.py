"""`noisy_run`: a noisy circuit on a batch, each sample with its own trajectories, at the speed of `run`."""

from __future__ import annotations

import torch
from torch import Tensor

from ketune.circuits._pauli_frames import Frames, framed
from ketune.circuits.adjoint import evolve
from ketune.circuits.circuit import Circuit
from ketune.circuits.hamiltonian import Hamiltonian, probabilities
from ketune.circuits.noise import NoiseModel
from ketune.circuits.observables import (
    Readout,
    basis_change,
    measurement_groups,
    pauli_z_words,
    split_readout,
    word_signs,
)
from ketune.circuits.sampling import misread, sample
from ketune.circuits.statevector import MAX_WIRES, run

_MAX_SETTINGS = 48  # more measurement settings than that are read from the states; `run` compiles each


def noisy_run(
    circuit: Circuit,
    x: Tensor | None,
    angles: Tensor,
    noise: NoiseModel,
    n_trajectories: int,
    *,
    encoding: str = "amplitude",
    readout: Readout = "pauli_z",
    n_shots: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What `run` gives, under noise: means over trajectories that every sample draws for itself.

    Trajectories of Pauli noise are the same circuit with some angles turned the other way, so `run` simulates all of
    them as sets of angles; nothing is approximated but the mean over trajectories, which scatters by about
    `1 / sqrt(n_trajectories)`. Encoding a state is free of noise; put gates into the circuit whose noise matters.

    Gradients to features and angles are exact for the trajectories drawn, and so unbiased. With `n_shots` the readouts
    are measured instead, and carry no gradient.

    Args:
        circuit: the circuit; up to 14 wires, without features up to 20.
        x: (..., n_features) features; |0...0> when None.
        angles: (..., n_angles) angles in radians; leading dimensions broadcast with those of the features.
        noise: noise of Pauli channels; the readout error is averaged exactly, or drawn where there are shots.
        n_trajectories: trajectories of each sample.
        encoding: as `run`.
        readout: as `run`, but for "amplitudes".
        n_shots: measurements in each setting, a multiple of the trajectories, which share them equally. A device has
            another trajectory in each shot: `n_shots=n_trajectories`.
        generator: source of randomness on the angles' device; the global one when None.

    Returns:
        (..., k) readouts.

    Raises:
        ValueError: for amplitude damping, readout "amplitudes", too few trajectories or shots that they cannot share,
            or as `run`.

    Example:
        >>> import torch
        >>> from ketune.circuits import NoiseModel, PauliChannel, noisy_run, ry_ring
        >>> noise = NoiseModel(two_wire=(PauliChannel(("XI",), (1.0,)),), readout_error=0.05)
        >>> noisy_run(ry_ring(2), torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.zeros(2), noise, 4)
        tensor([[-0.9000,  0.9000]])
    """
    if n_shots is None:
        values = noisy_trajectories(
            circuit, x, angles, noise, n_trajectories, encoding=encoding, readout=readout, generator=generator
        )
        return values.mean(0)
    with torch.no_grad():
        return _measured(circuit, x, angles, noise, n_trajectories, encoding, readout, n_shots, generator)


def noisy_trajectories(
    circuit: Circuit,
    x: Tensor | None,
    angles: Tensor,
    noise: NoiseModel,
    n_trajectories: int,
    *,
    encoding: str = "amplitude",
    readout: Readout = "pauli_z",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The readouts of each trajectory, (n_trajectories, ..., k), whose mean is `noisy_run`.

    Arguments and errors as `noisy_run`. The scatter over the first dimension gives the error of the mean.
    """
    measured, weights = split_readout(readout, circuit.n_wires)
    program, turned, frames = _drawn(circuit, x, angles, noise, n_trajectories, measured, generator)
    if isinstance(measured, str) and measured == "probabilities":
        if circuit.n_wires <= MAX_WIRES:
            out = run(program, x, turned, encoding=encoding, readout="probabilities")
        else:
            out = probabilities(evolve(program, turned))
        index = torch.arange(out.shape[-1], device=out.device) ^ frames.flips("I" * circuit.n_wires)[..., None]
        return _misread_probabilities(out.gather(-1, index), circuit.n_wires, noise.readout_error)
    words = pauli_z_words(circuit.n_wires) if isinstance(measured, str) else measured
    if circuit.n_wires > MAX_WIRES or (x is None and len(measurement_groups(words)) > _MAX_SETTINGS):
        return _from_states(frames.apply(evolve(program, turned)), words, weights, noise)
    out = run(program, x, turned, encoding=encoding, readout=list(words))
    shrink = 1 - 2 * noise.readout_error
    factors = out.new_tensor([shrink ** (len(word) - word.count("I")) for word in words])
    out = out * frames.signs(words, out.dtype) * factors
    return out if weights is None else out @ weights.to(out)


def _drawn(
    circuit: Circuit,
    x: Tensor | None,
    angles: Tensor,
    noise: NoiseModel,
    n_trajectories: int,
    measured: str | tuple[str, ...],
    generator: torch.Generator | None,
) -> tuple[Circuit, Tensor, Frames]:
    """The circuit with an angle for each rotation, its angles (n_trajectories, ..., n) and the Paulis at the end."""
    if n_trajectories < 1:
        raise ValueError(f"n_trajectories={n_trajectories}: take at least 1")
    if not noise.is_pauli:
        raise ValueError("noisy_run: amplitude damping is no mixture of Paulis; use simulate_noisy, or phase_damping")
    if measured == "amplitudes":
        raise ValueError("noisy_run(readout='amplitudes'): a mixed state has none; choose another readout")
    if angles.ndim == 0 or angles.shape[-1] != circuit.n_angles:
        raise ValueError(f"angles have shape {tuple(angles.shape)}; this circuit takes (..., {circuit.n_angles})")
    if x is not None and circuit.n_wires > MAX_WIRES:
        raise ValueError(f"noisy_run: features on {circuit.n_wires} wires; at most {MAX_WIRES}, or make them angles")
    batch = angles.shape[:-1] if x is None else torch.broadcast_shapes(x.shape[:-1], angles.shape[:-1])
    program = framed(circuit, noise)
    signs, frames = program.draw((n_trajectories, *batch), angles.device, generator)
    own = program.angles(angles)
    return program.circuit, torch.where(signs, -own, own), frames


def _from_states(states: Tensor, words: tuple[str, ...], weights: Tensor | None, noise: NoiseModel) -> Tensor:
    if weights is None:
        sums = [Hamiltonian((1.0,), (word,)) for word in words]
    else:
        sums = [Hamiltonian(tuple(column.tolist()), words) for column in weights.T]
    return torch.stack([noise.misread_hamiltonian(each).expectation(states) for each in sums], -1)


def _misread_probabilities(chances: Tensor, n_wires: int, error: float) -> Tensor:
    if not error:
        return chances
    for wire in range(n_wires):
        split = chances.unflatten(-1, (2**wire, 2, -1))
        chances = ((1 - error) * split + error * split.flip(-2)).flatten(-3)
    return chances


def _measured(
    circuit: Circuit,
    x: Tensor | None,
    angles: Tensor,
    noise: NoiseModel,
    n_trajectories: int,
    encoding: str,
    readout: Readout,
    n_shots: int,
    generator: torch.Generator | None,
) -> Tensor:
    measured, weights = split_readout(readout, circuit.n_wires)
    if n_shots < 1 or n_shots % max(n_trajectories, 1):
        raise ValueError(f"n_shots={n_shots}: take a multiple of n_trajectories={n_trajectories}")
    n_wires = circuit.n_wires
    words = pauli_z_words(n_wires) if isinstance(measured, str) else measured
    groups = [("I" * n_wires, [])] if measured == "probabilities" else measurement_groups(words)
    columns: dict[int, Tensor] = {}
    for basis, members in groups:
        program, turned, frames = _drawn(circuit, x, angles, noise, n_trajectories, measured, generator)
        program = Circuit(n_wires, program.gates + basis_change(basis))
        if n_wires <= MAX_WIRES:
            chances = run(program, x, turned, encoding=encoding, readout="probabilities")
        else:
            chances = probabilities(evolve(program, turned))
        shots = sample(chances.clamp_min(0), n_shots // n_trajectories, generator=generator, are_probabilities=True)
        shots = misread(shots ^ frames.flips(basis)[..., None], n_wires, noise.readout_error, generator=generator)
        if measured == "probabilities":
            hits = torch.zeros(*shots.shape[1:-1], 2**n_wires, dtype=chances.dtype, device=chances.device)
            each = shots.movedim(0, -1).flatten(-2)
            return hits.scatter_add_(-1, each, torch.ones_like(each, dtype=hits.dtype)) / n_shots
        signs = word_signs([words[member] for member in members], shots).mean((0, -2))
        columns |= {member: signs[..., place] for place, member in enumerate(members)}
    out = torch.stack([columns[number] for number in range(len(words))], -1).to(chances.dtype)
    return out if weights is None else out @ weights.to(out)
