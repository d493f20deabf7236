"""Dense matrices of gates and Pauli words, from matrix exponentials and Kronecker products: the tests' own source."""

import cmath
import math

import torch

I2 = torch.eye(2, dtype=torch.complex128)
X = torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128)
Y = torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex128)
Z = torch.diag(torch.tensor([1, -1], dtype=torch.complex128))
PAULI = {"I": I2, "X": X, "Y": Y, "Z": Z}


def pauli_word(word):
    matrix = torch.ones(1, 1, dtype=torch.complex128)
    for letter in word:
        matrix = torch.kron(matrix, PAULI[letter])
    return matrix


def embed(matrix, wires, n_wires):
    """A matrix on the given wires as a matrix on all wires, by its action on Pauli words."""
    letters = "IXYZ"
    total = torch.zeros(2**n_wires, 2**n_wires, dtype=torch.complex128)
    for code in range(4 ** len(wires)):
        small = [letters[code // 4**k % 4] for k in range(len(wires))]
        weight = torch.trace(pauli_word(small).mH @ matrix) / 2 ** len(wires)
        word = ["I"] * n_wires
        for letter, wire in zip(small, wires):
            word[wire] = letter
        total += weight * pauli_word(word)
    return total


def gate_matrix(name, angle):
    """The 2 x 2 or 4 x 4 matrix of a gate."""
    if name in ("RX", "RY", "RZ"):
        return torch.linalg.matrix_exp(-0.5j * angle * PAULI[name[1]])
    if name in ("CRX", "CRY", "CRZ"):
        return torch.block_diag(I2, gate_matrix(name[1:], angle))
    if name in ("X", "Y", "Z"):
        return PAULI[name]
    if name == "H":
        return (X + Z) / 2**0.5
    if name in ("S", "SDG", "T", "TDG"):
        power = {"S": 1j, "SDG": -1j, "T": (1 + 1j) / 2**0.5, "TDG": (1 - 1j) / 2**0.5}[name]
        return torch.diag(torch.tensor([1, power], dtype=torch.complex128))
    if name == "SX":
        return torch.linalg.matrix_exp(-0.25j * math.pi * X) * cmath.exp(0.25j * math.pi)
    if name == "GPHASE":
        return I2 * cmath.exp(0.5j * float(angle))
    if name in ("PHASE", "CPHASE"):
        ones = [1] * (3 if name == "CPHASE" else 1)
        return torch.diag(torch.tensor([*ones, cmath.exp(1j * float(angle))], dtype=torch.complex128))
    if name in ("ISINGXX", "ISINGYY", "ISINGZZ"):
        return torch.linalg.matrix_exp(-0.5j * angle * pauli_word(name[-2:]))
    if name == "ISINGXY":
        return torch.linalg.matrix_exp(0.25j * angle * (pauli_word("XX") + pauli_word("YY")))
    if name == "ISWAP":
        return gate_matrix("ISINGXY", math.pi)
    if name in ("CNOT", "CY", "CZ", "CH"):
        return torch.block_diag(I2, gate_matrix({"CNOT": "X"}.get(name, name[1:]), None))
    assert name == "SWAP"
    return torch.eye(4, dtype=torch.complex128)[[0, 2, 1, 3]]


def circuit_matrix(circuit, angles):
    """The unitary of a circuit, (2 ** n_wires, 2 ** n_wires)."""
    total = torch.eye(2**circuit.n_wires, dtype=torch.complex128)
    for gate in circuit.gates:
        angle = None if gate.angle is None else angles[gate.angle]
        matrix = gate_matrix(gate.name, angle) if gate.matrix is None else torch.tensor(gate.matrix, dtype=total.dtype)
        total = embed(matrix.to(total.dtype), gate.wires, circuit.n_wires) @ total
    return total


def readouts(circuit, x, angles, readout):
    """Readouts of amplitude-encoded features (B, n_features) from dense matrices, in float64."""
    x = torch.nn.functional.pad(x.double(), (0, 2**circuit.n_wires - x.shape[-1]))
    unitary = circuit_matrix(circuit, angles.double())
    if readout == "amplitudes":
        return (x.to(unitary.dtype) @ unitary.T).real
    states = (x / x.norm(dim=-1, keepdim=True)).to(unitary.dtype) @ unitary.T
    if readout == "probabilities":
        return states.abs().square()
    if readout == "pauli_z":
        n = circuit.n_wires
        readout = ["I" * q + "Z" + "I" * (n - q - 1) for q in range(n)]
    return torch.stack([((states @ pauli_word(w).T) * states.conj()).sum(-1).real for w in readout], -1)
