"""Noisy circuits by quantum trajectories: batches of pure states whose mean is the density matrix.

J. Dalibard, Y. Castin, K. Molmer, Phys. Rev. Lett. 68, 580 (1992): after a gate each trajectory draws one Kraus
operator of the channel. A state takes 2 ** n numbers where a density matrix takes 4 ** n; the price is a statistical
error that falls with the root of the number of trajectories.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.hamiltonian import Hamiltonian, probabilities
from ketune.circuits.noise import AnyChannel, Channel, NoiseModel, channel_wires, draw_words
from ketune.circuits.pauli_noise import noisy_trajectories
from ketune.circuits.sampling import Estimate
from ketune.circuits.simulate import simulate

_I, _X, _Z = ((1.0, 0.0), (0.0, 1.0)), ((0.0, 1.0), (1.0, 0.0)), ((1.0, 0.0), (0.0, -1.0))
_Y = ((0.0, -1.0), (1.0, 0.0))  # -iY: a trajectory's global phase is free, and real states stay real


def simulate_noisy(
    circuit: Circuit,
    angles: Tensor,
    noise: NoiseModel,
    n_trajectories: int,
    state: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Final states of random trajectories of a noisy circuit. `reduced_state(...).mean(0)` is the density matrix.

    Gradients of averaged expectation values to angles and states are unbiased: the drawn operators are constants, and a
    jump of amplitude damping enters with a constant weight, the probability it was drawn with. Hence do not normalise
    the states before reading them out; their norms are 1 in value but not in slope.

    Limits: noise is local (on the wires of a gate, after it, none on idle wires) and without memory; results scatter by
    about `1 / sqrt(n_trajectories)`; memory is `n_trajectories` states, and one more such batch per gate when gradients
    are asked for, so that large averages are best taken over several calls.

    Args:
        circuit: the circuit.
        angles: (..., n_angles) angles in radians.
        noise: the noise model; its readout error has no effect here.
        n_trajectories: number of trajectories of each state.
        state: (..., 2 ** n_wires) initial states, |0...0> when None, normalised where damping is to be right.
        generator: source of randomness on the angles' device; the global one when None.

    Returns:
        (n_trajectories, ..., 2 ** n_wires) states.

    Raises:
        ValueError: for fewer than one trajectory, angles or states of another length.

    Example:
        >>> import torch
        >>> from ketune.circuits import Channel, Circuit, Gate, NoiseModel, simulate_noisy
        >>> always = NoiseModel(one_wire=(Channel("bit_flip", 1.0),))
        >>> simulate_noisy(Circuit(1, (Gate("X", (0,)),)), torch.zeros(0), always, 2)
        tensor([[1., 0.],
                [1., 0.]])
    """
    if n_trajectories < 1:
        raise ValueError(f"n_trajectories={n_trajectories}: take at least 1")
    if angles.ndim == 0 or angles.shape[-1] != circuit.n_angles:
        raise ValueError(f"angles have shape {tuple(angles.shape)}; this circuit takes (..., {circuit.n_angles})")
    states = simulate(Circuit(circuit.n_wires, ()), angles[..., :0], state)
    states = states.expand(n_trajectories, *states.shape)
    for part, places, channels, wires in _parts(circuit, noise):
        states = simulate(part, angles[..., places], states)
        for channel in channels:
            for on in channel_wires(channel, wires):
                states = _jump(states, on, channel, generator)
    return states


def noisy_expectation(
    circuit: Circuit,
    hamiltonian: Hamiltonian,
    angles: Tensor,
    noise: NoiseModel,
    n_trajectories: int,
    state: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Mean of <psi|H|psi> over trajectories and its standard error; the readout error is averaged exactly.

    Arguments, limits, gradients and errors as `simulate_noisy`.

    Args:
        circuit: the circuit.
        hamiltonian: the observable, on as many wires.
        angles: (..., n_angles) angles in radians.
        noise: the noise model.
        n_trajectories: number of trajectories, at least 2.
        state: (..., 2 ** n_wires) initial states; |0...0> when None.
        generator: source of randomness; the global one when None.

    Returns:
        value and standard error, (...) each; only the value carries gradients.

    Raises:
        ValueError: for fewer than two trajectories, or a Hamiltonian on other wires.

    Example:
        >>> import torch
        >>> from ketune.circuits import Channel, Hamiltonian, NoiseModel, noisy_expectation, ry_ring
        >>> noise = NoiseModel(two_wire=(Channel("bit_flip", 1.0),), readout_error=0.05)
        >>> value, error = noisy_expectation(ry_ring(2), Hamiltonian((1.0,), ("ZI",)), torch.zeros(2), noise, 10)
        >>> round(value.item(), 4), error.item()
        (-0.9, 0.0)
    """
    if n_trajectories < 2:
        raise ValueError(f"n_trajectories={n_trajectories}: a standard error needs at least 2")
    if state is None and noise.is_pauli:  # the compiled simulator can do it
        values = noisy_trajectories(
            circuit, None, angles, noise, n_trajectories, readout=hamiltonian, generator=generator
        )
        values = values[..., 0]
        return Estimate(values.mean(0), (values.detach().var(0) / n_trajectories).sqrt())
    states = simulate_noisy(circuit, angles, noise, n_trajectories, state, generator=generator)
    values = noise.misread_hamiltonian(hamiltonian).expectation(states)
    return Estimate(values.mean(0), (values.detach().var(0) / n_trajectories).sqrt())


@lru_cache(maxsize=64)
def _parts(
    circuit: Circuit, noise: NoiseModel
) -> list[tuple[Circuit, list[int], tuple[AnyChannel, ...], tuple[int, ...]]]:
    """The circuit cut after each gate that noise follows: gates, their angles, and the channels with their wires."""
    parts = []
    gates: list[Gate] = []
    for number, gate in enumerate(circuit.gates):
        gates.append(gate)
        channels = noise.one_wire if len(gate.wires) == 1 else noise.two_wire
        if channels or number == len(circuit.gates) - 1:
            angles = list(dict.fromkeys(gate.angle for gate in gates if gate.angle is not None))
            inner = [Gate(g.name, g.wires, None if g.angle is None else angles.index(g.angle), g.matrix) for g in gates]
            parts.append((Circuit(circuit.n_wires, tuple(inner)), angles, channels, gate.wires))
            gates = []
    return parts


def _jump(states: Tensor, wires: tuple[int, ...], channel: AnyChannel, generator: torch.Generator | None) -> Tensor:
    """Draws one Kraus operator per state and applies it, divided by the root of its probability."""
    if isinstance(channel, Channel) and channel.pauli_probabilities is None:
        if channel.strength == 0:
            return states
        chances = torch.rand(states.shape[:-1], dtype=torch.float64, device=states.device, generator=generator)
        return _decay(states.unflatten(-1, (2 ** wires[0], 2, -1)), chances, channel.strength)
    words, drawn = draw_words(channel, states.shape[:-1], states.device, generator)
    if words:
        for place, wire in enumerate(wires):
            letters = torch.tensor(["IXYZ".index(word[place]) for word in words], device=states.device)
            states = _turned(states, wire, letters[drawn])
    return states


def _turned(states: Tensor, wire: int, letters: Tensor) -> Tensor:
    """Each state with a Pauli on a wire: 0 for I, 1 for X, 2 for Y, 3 for Z."""
    letters = letters.flatten()
    hit = letters.nonzero()[:, 0]  # weak noise leaves most states alone
    flat = states.reshape(letters.numel(), states.shape[-1])
    zero, one = flat[hit].unflatten(-1, (2**wire, 2, -1)).unbind(-2)
    table = torch.tensor([_I, _X, _Y, _Z], dtype=states.real.dtype, device=states.device)
    paulis = table[letters[hit], ..., None, None]
    turned = torch.stack(
        (paulis[:, 0, 0] * zero + paulis[:, 0, 1] * one, paulis[:, 1, 0] * zero + paulis[:, 1, 1] * one), -2
    )
    return flat.index_copy(0, hit, turned.flatten(-3)).view(states.shape)


def _decay(split: Tensor, chances: Tensor, strength: float) -> Tensor:
    """Amplitude damping on the second last dimension of (..., outer, 2, inner) states."""
    zero, one = split.unbind(-2)
    with torch.no_grad():
        ground, excited = (probabilities(part).double().sum((-2, -1)) for part in (zero, one))
        chance = strength * excited / (ground + excited).clamp_min(torch.finfo(torch.float64).tiny)
        jumps = chances < chance
        weight = torch.where(jumps, chance, 1 - chance).rsqrt().to(split.real.dtype)[..., None, None]
        jumps = jumps[..., None, None]
    zero, one = (
        weight * torch.where(jumps, math.sqrt(strength) * one, zero),
        weight * torch.where(jumps, 0.0, math.sqrt(1 - strength) * one),
    )
    return torch.stack((zero, one), -2).flatten(-3)
