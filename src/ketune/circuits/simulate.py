"""`simulate`: final states gate by gate, in plain torch operations. Slow and obviously right."""

import torch
from torch import Tensor

from ketune.circuits._gates import GATES, Matrix, Step, elementary_steps
from ketune.circuits.circuit import Circuit


def simulate(circuit: Circuit, angles: Tensor, state: Tensor | None = None) -> Tensor:
    """Final states of a circuit, applied gate after gate.

    The plain counterpart of `run`: batches of angles as well as of states, the whole complex state as the result, and
    every derivative that torch offers. It keeps a copy of the state per gate for the backward pass. From about 14
    wires on `evolve` is faster and keeps the last state only.

    Args:
        circuit: the circuit.
        angles: (..., n_angles) angles in radians; leading dimensions are a batch.
        state: (..., 2 ** n_wires) initial states, real or complex, taken as they are; |0...0> when None. Leading
            dimensions broadcast with those of the angles.

    Returns:
        (..., 2 ** n_wires) final states; real when the circuit and the initial state are real.

    Raises:
        ValueError: for angles or states of another length.

    Example:
        >>> import torch
        >>> from ketune.circuits import Circuit, Gate, simulate
        >>> simulate(Circuit(2, (Gate("X", (0,)), Gate("CNOT", (0, 1)))), torch.zeros(0))
        tensor([0., 0., 0., 1.])
    """
    size = 2**circuit.n_wires
    if angles.shape[-1] != circuit.n_angles:
        raise ValueError(f"angles have length {angles.shape[-1]}; this circuit takes {circuit.n_angles}")
    if state is None:
        state = torch.zeros(size, dtype=angles.dtype, device=angles.device)
        state[0] = 1
    elif state.shape[-1] != size:
        raise ValueError(f"the state has length {state.shape[-1]}; {circuit.n_wires} wires need {size}")
    dtype = torch.promote_types(angles.dtype, state.dtype)
    if not circuit.is_real:
        dtype = dtype.to_complex()
    batch = torch.broadcast_shapes(angles.shape[:-1], state.shape[:-1])
    state = state.to(dtype).expand(*batch, size)
    angles = angles.expand(*batch, circuit.n_angles)
    for gate in circuit.gates:
        for step in elementary_steps(gate):
            angle = None if step.angle is None else angles[..., step.angle] * step.factor
            state = _apply(step, angle, state, circuit.n_wires)
    return state


def _apply(step: Step, angle: Tensor | None, state: Tensor, n_wires: int) -> Tensor:
    """One elementary step on (..., 2 ** n_wires) states; the angle has the states' leading dimensions."""
    if step.permutes:
        permute = GATES[step.name].permute
        assert permute is not None
        basis = torch.arange(state.shape[-1])
        goes_to, sign = permute(basis, n_wires - 1 - step.wires[0], n_wires - 1 - step.wires[1])
        if sign is not None:
            state = state * sign.to(state.device, state.dtype)
        return state.index_select(-1, torch.argsort(goes_to).to(state.device))
    split = state.unflatten(-1, (2 ** step.wires[0], 2, -1))
    if angle is None:
        assert step.constant is not None
        return _multiply(step.constant, split).flatten(-3)
    spec = GATES[step.name]
    assert spec.cosine is not None
    assert spec.sine is not None
    half = (angle / 2)[..., None, None, None]
    return (half.cos() * _multiply(spec.cosine, split) + half.sin() * _multiply(spec.sine, split)).flatten(-3)


def _multiply(matrix: Matrix, split: Tensor) -> Tensor:
    """A 2 x 2 matrix on the second last dimension of (..., outer, 2, inner); zeros of the matrix cost nothing."""
    rows = []
    for row in matrix:
        terms = [
            split[..., column, :] * (entry if split.is_complex() else complex(entry).real)
            for column, entry in enumerate(row)
            if entry
        ]
        rows.append(sum(terms[1:], terms[0]))
    return torch.stack(rows, -2)
