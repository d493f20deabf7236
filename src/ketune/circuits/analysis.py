"""What a circuit can express: expressibility and entangling capability.

S. Sim, P. D. Johnson, A. Aspuru-Guzik, "Expressibility and entangling capability of parameterized quantum circuits for
hybrid quantum-classical algorithms", Advanced Quantum Technologies 2, 1900070 (2019), arXiv 1905.10876.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ketune.circuits.adjoint import evolve
from ketune.circuits.circuit import Circuit
from ketune.circuits.hamiltonian import probabilities
from ketune.circuits.simulate import simulate
from ketune.circuits.states import meyer_wallach

_CHUNK_AMPLITUDES = 1 << 16  # amplitudes simulated at a time, so that a gate's reads and writes stay in the cache
_BLOCK_CHUNK_AMPLITUDES = 1 << 18  # larger, because making a block's matrices costs some time for any number of states
_BLOCK_WIRES = 10  # from here on blocks of gates are faster than single gates


def _random_states(circuit: Circuit, n_states: int, seed: int) -> Iterator[Tensor]:
    """Chunks of final states from |0...0> under uniformly random angles in [-pi, pi)."""
    generator = torch.Generator().manual_seed(seed)
    in_blocks = circuit.n_wires >= _BLOCK_WIRES
    amplitudes = _BLOCK_CHUNK_AMPLITUDES if in_blocks else _CHUNK_AMPLITUDES
    chunk = max(2, amplitudes // 2**circuit.n_wires) // 2 * 2
    for start in range(0, n_states, chunk):
        count = min(chunk, n_states - start)
        angles = torch.rand(count, circuit.n_angles, generator=generator, dtype=torch.float32)
        angles = (2 * angles - 1) * math.pi
        yield evolve(circuit, angles) if in_blocks else simulate(circuit, angles)


@torch.no_grad()
def expressibility(circuit: Circuit, n_pairs: int = 1000, n_bins: int = 75, seed: int = 0) -> float:
    """How far the circuit's states are from uniformly random ones: smaller is more expressive, 0 is Haar random.

    The Kullback-Leibler divergence, in nats, of the histogram of fidelities |<psi(a)|psi(b)>|^2 between states at
    random angles from that of Haar-random states (Sim et al., eq. 9). A circuit without angles gives the largest value,
    `(2 ** n_wires - 1) ln(n_bins)`. Finite sampling adds about `n_bins / (2 n_pairs)`. With more wires nearly all
    fidelities fall into the first bin, so compare circuits with equal numbers of wires only.

    Args:
        circuit: the circuit, applied to |0...0>.
        n_pairs: number of pairs of angle vectors, uniform in [-pi, pi).
        n_bins: bins of the histogram on [0, 1]; 75 in the paper.
        seed: of the random angles.

    Raises:
        ValueError: for fewer than one pair or bin.

    Example:
        >>> from ketune.circuits import Circuit, Gate, expressibility
        >>> idle = Circuit(1, ())
        >>> round(expressibility(idle), 2)
        4.32
    """
    if n_pairs < 1 or n_bins < 1:
        raise ValueError(f"n_pairs={n_pairs}, n_bins={n_bins}: both must be at least 1")
    fidelities = []
    for states in _random_states(circuit, 2 * n_pairs, seed):
        overlaps = (states[0::2].conj() * states[1::2]).sum(-1)
        fidelities.append(probabilities(overlaps).double())
    # Rounding can leave a fidelity of 1 just above it.
    counts = torch.histc(torch.cat(fidelities).clamp(0, 1), n_bins, 0, 1)
    edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64)
    # The chance of a Haar fidelity above f is (1 - f) ** (N - 1); its logarithm keeps the last bins from vanishing.
    exponent = 2**circuit.n_wires - 1
    log_above = exponent * torch.log1p(-edges)
    log_haar = log_above[:-1] + torch.log(-torch.expm1(log_above[1:] - log_above[:-1]))
    seen = counts > 0
    share = counts[seen] / n_pairs
    return float((share * (share.log() - log_haar[seen])).sum())


@torch.no_grad()
def entangling_capability(circuit: Circuit, n_states: int = 500, seed: int = 0) -> float:
    """Mean Meyer-Wallach entanglement of the circuit's states at random angles, from 0 (product states) to 1.

    Q = 2 (1 - mean over wires of the purity of that wire) (Sim et al., eq. 11, in the form of Brennen, 2003).

    Args:
        circuit: the circuit, applied to |0...0>.
        n_states: number of angle vectors, uniform in [-pi, pi).
        seed: of the random angles.

    Raises:
        ValueError: for fewer than one state.

    Example:
        >>> from ketune.circuits import entangling_capability, ry_ring
        >>> round(entangling_capability(ry_ring(4, entangler="none")), 3)
        0.0
    """
    if n_states < 1:
        raise ValueError(f"n_states={n_states}: draw at least 1 state")
    states = _random_states(circuit, n_states, seed)
    return max(0.0, sum(float(meyer_wallach(chunk).double().sum()) for chunk in states) / n_states)
