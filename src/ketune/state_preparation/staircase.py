"""Matrix-product staircases: layers of blocks on neighbours, each the best train of bond dimension 2 of what is left.

Shi-Ju Ran, "Encoding of matrix product states into quantum circuits of one- and two-qubit gates", Phys. Rev. A 101,
032310 (2020), arXiv 1908.07958. A train of bond 2 is what n - 1 two-wire gates, one after another along the line, make
of |0...0>; undoing them leaves a state closer to |0...0>, of which the next layer takes the next train.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ketune.state_preparation._pair_chain import Layouts, apply_blocks
from ketune.state_preparation.entanglement import as_states, bloch_vectors, count_wires, is_real, product_angles
from ketune.state_preparation.errors import LoadingError
from ketune.state_preparation.pair_circuit import PairCircuit
from ketune.state_preparation.unitary_blocks import circuit_from_unitaries
from ketune.tensor_networks import decompose_tensor


def staircase(vector: Tensor, n_layers: int) -> PairCircuit:
    """A circuit of `n_layers` staircases that loads a vector approximately.

    Args:
        vector: (n_features,) real or complex, padded with zeros to a power of two.
        n_layers: layers of n_wires - 1 blocks: "so4" (two CNOTs) for real vectors, "su4" (three) for complex ones.

    Returns:
        the circuit. One layer is exact for states of bond dimension 2, such as GHZ and W states.

    Raises:
        LoadingError: for fewer than 0 layers, or a vector without a direction.

    Example:
        >>> import torch
        >>> from ketune.state_preparation import infidelities, staircase
        >>> ghz = torch.zeros(1, 16)
        >>> ghz[0, 0] = ghz[0, 15] = 0.5**0.5
        >>> float(infidelities([staircase(ghz[0], 1)], ghz)) < 1e-6
        True
    """
    if n_layers < 0:
        raise LoadingError(f"n_layers={n_layers}: take at least 0")
    left = as_states(vector.detach())
    n_wires, real = count_wires(left), is_real(left)
    block = "so4" if real else "su4"
    if n_wires == 1 or n_layers == 0:
        start = product_angles(bloch_vectors(left))
        return PairCircuit(n_wires, block, (), start[:, :1] if real else start, torch.zeros(0, 4 if real else 9))
    line = [(wire, wire + 1) for wire in range(n_wires - 1)]
    layouts = Layouts(torch.tensor(line[::-1])[None], n_wires)
    layers = []
    for _ in range(n_layers):
        gates = _train_gates(left.real if real else left)
        left = apply_blocks(left[None], gates.to(left.dtype).mH.flip(0)[None], layouts)[0]
        layers.append(gates)
    start = torch.zeros(n_wires, 2, dtype=torch.float64)
    return circuit_from_unitaries(start, line * n_layers, torch.cat(layers[::-1]), block)


def _train_gates(state: Tensor) -> Tensor:
    """(n - 1, 4, 4): gates on neighbours, from the first to the last, that make the state's train of bond 2."""
    n_wires = state.numel().bit_length() - 1
    turned = state.view((2,) * n_wires).permute(*range(n_wires - 1, -1, -1))
    # Cores from the right end are isometries from the bond on their left to the wire and the bond on their right.
    cores = [core.permute(2, 1, 0) for core in decompose_tensor(turned, max_ranks=2)][::-1]
    cores[0] = cores[0] / torch.linalg.vector_norm(cores[0])
    cores[-2] = torch.einsum("asb,bt->ast", cores[-2], cores[-1][:, :, 0])
    gates = []
    for core in cores[:-1]:
        columns = torch.zeros(4, 4, dtype=state.dtype)
        given = [2 * bond for bond in range(core.shape[0])]  # the bond arrives on the first wire, beside a fresh one
        padded = torch.zeros(core.shape[0], 2, 2, dtype=state.dtype)
        padded[:, :, : core.shape[2]] = core
        columns[:, given] = padded.flatten(1).T
        gates.append(completed(columns, given))
    return torch.stack(gates)


def completed(columns: Tensor, given: list[int]) -> Tensor:
    """A unitary of determinant 1 with some orthonormal columns given: (N, N), the other columns are overwritten."""
    size = len(columns)
    basis, _ = torch.linalg.qr(torch.cat((columns[:, given], torch.eye(size, dtype=columns.dtype)), 1))
    others = [column for column in range(size) if column not in given]
    unitary = columns.clone()
    unitary[:, others] = basis[:, len(given) :]
    if others:
        unitary[:, others[0]] /= torch.linalg.det(unitary)
    return unitary
