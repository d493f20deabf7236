"""Max-Cut on random graphs: QAOA, its closed form at one layer, and the exact optimum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ketune.circuits import Circuit, Gate, max_cut, ryrz_ring_ry
from ketune.circuits._optional import library
from ketune.vqc.problems.base import EnergyProblem, Family

GRAPHS = ("erdos_renyi", "regular")
"""Kinds of random graphs."""

CUT_ANSATZE = ("qaoa", "hardware_efficient")
"""Names of the circuits of `max_cut_problem`."""

MAX_VERTICES = 22
"""Largest graph whose best cut is found by enumeration."""

Edges = tuple[tuple[int, int], ...]

_TRIES = 200


def random_graph(
    n_wires: int, graph: str = "erdos_renyi", probability: float = 0.5, degree: int = 3, seed: int = 0
) -> Edges:
    """The edges of a connected random graph; unconnected ones are drawn again.

    Args:
        n_wires: number of vertices.
        graph: "erdos_renyi" (every edge with a probability) or "regular" (every vertex with equally many edges).
        probability: of an edge, for "erdos_renyi".
        degree: edges at a vertex, for "regular"; `n_wires * degree` must be even.
        seed: decides the graph.

    Raises:
        ValueError: for an unknown kind, or numbers for which there is hardly a connected graph.

    Example:
        >>> random_graph(4, "regular", degree=3)
        ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    """
    if graph not in GRAPHS:
        raise ValueError(f"max_cut: graph={graph!r}; choose one of {', '.join(map(repr, GRAPHS))}")
    if n_wires < 2:
        raise ValueError(f"max_cut: n_wires={n_wires}; a cut needs at least 2 vertices")
    if graph == "erdos_renyi" and not 0 < probability <= 1:
        raise ValueError(f"max_cut: probability={probability}; choose above 0 and at most 1")
    if graph == "regular" and (not 1 <= degree < n_wires or degree * n_wires % 2):
        raise ValueError(
            f"max_cut: degree={degree} for {n_wires} vertices; choose 1 to {n_wires - 1}, with an even product"
        )
    networkx = library("networkx")
    numbers = np.random.default_rng(seed)
    for _ in range(_TRIES):
        number = int(numbers.integers(2**31))
        if graph == "regular":
            drawn = networkx.random_regular_graph(degree, n_wires, seed=number)
        else:
            drawn = networkx.gnp_random_graph(n_wires, probability, seed=number)
        if networkx.is_connected(drawn):
            return tuple(sorted((min(edge), max(edge)) for edge in drawn.edges))
    wish = f"degree={degree}" if graph == "regular" else f"probability={probability}"
    raise ValueError(f"max_cut: none of {_TRIES} graphs of {n_wires} vertices is connected; choose more than {wish}")


def best_cut(n_wires: int, edges: Iterable[tuple[int, int]]) -> int:
    """The most edges that any cut has, by looking at all of them.

    Raises:
        ValueError: for more than 22 vertices.

    Example:
        >>> best_cut(3, [(0, 1), (1, 2), (0, 2)])
        2
    """
    if n_wires > MAX_VERTICES:
        raise ValueError(f"best_cut: {n_wires} vertices; enumeration takes at most {MAX_VERTICES}")
    sides = np.arange(2 ** (n_wires - 1), dtype=np.uint32)  # the last vertex stays on one side
    cut = np.zeros(len(sides), dtype=np.int16)
    for first, second in edges:
        cut += ((sides >> first ^ sides >> second) & 1).astype(np.int16)
    return int(cut.max())


def qaoa_circuit(n_wires: int, edges: Iterable[tuple[int, int]], n_layers: int) -> Circuit:
    """H on every wire, then layers of ISINGZZ on the edges and RX on the wires, each kind sharing one angle.

    E. Farhi, J. Goldstone, S. Gutmann, arXiv 1411.4028. Angles are the gates' own; `qaoa_angles` gives those of the
    paper's gamma and beta.

    Raises:
        ValueError: for fewer than one layer or an edge outside the wires.
    """
    if n_layers < 1:
        raise ValueError(f"max_cut: n_layers={n_layers}; take at least 1")
    edges = tuple(edges)
    gates = [Gate("H", (wire,)) for wire in range(n_wires)]
    for layer in range(n_layers):
        gates += [Gate("ISINGZZ", edge, 2 * layer) for edge in edges]
        gates += [Gate("RX", (wire,), 2 * layer + 1) for wire in range(n_wires)]
    return Circuit(n_wires, tuple(gates))


def qaoa_angles(gamma: Tensor, beta: Tensor) -> Tensor:
    """The angles of `qaoa_circuit` for `exp(-i beta sum X) exp(-i gamma C)`, C the number of edges cut.

    Args:
        gamma: (..., n_layers) in radians.
        beta: (..., n_layers) in radians.

    Returns:
        (..., 2 * n_layers): -gamma and 2 beta of each layer in turn.
    """
    return torch.stack((-gamma, 2 * beta), -1).flatten(-2)


def qaoa_cut(edges: Sequence[tuple[int, int]], gamma: Tensor | float, beta: Tensor | float) -> Tensor:
    """The mean cut of QAOA with one layer, in closed form, on any graph of edges of weight 1.

    Z. Wang, S. Hadfield, Z. Jiang, E. G. Rieffel, Phys. Rev. A 97, 022304 (2018), theorem 1: from the degrees of an
    edge's ends and the triangles it is in.

    Args:
        edges: pairs of vertices, each once.
        gamma: (...) in radians.
        beta: (...) in radians.

    Returns:
        (...) mean numbers of edges cut, float64.

    Example:
        >>> round(float(qaoa_cut([(0, 1)], torch.pi / 2, torch.pi / 8)), 6)
        1.0
    """
    gamma = torch.as_tensor(gamma, dtype=torch.float64)
    beta = torch.as_tensor(beta, dtype=torch.float64)
    neighbours: dict[int, set[int]] = {}
    for first, second in edges:
        neighbours.setdefault(first, set()).add(second)
        neighbours.setdefault(second, set()).add(first)
    total = torch.zeros(torch.broadcast_shapes(gamma.shape, beta.shape), dtype=torch.float64)
    for first, second in edges:
        d, e = len(neighbours[first]) - 1, len(neighbours[second]) - 1
        f = len(neighbours[first] & neighbours[second])
        ends = (4 * beta).sin() * gamma.sin() * (gamma.cos() ** e + gamma.cos() ** d) / 4
        triangles = (2 * beta).sin() ** 2 * gamma.cos() ** (d + e - 2 * f) * (1 - (2 * gamma).cos() ** f) / 4
        total = total + 0.5 + ends - triangles
    return total


def graph_numbers(n_wires: int, edges: Edges) -> tuple[float, float, float, float]:
    """What tells QAOA one graph from another: density, mean degree, its deviation, triangles at an edge on average.

    The one-layer energy depends on a graph only through its edges' degrees and triangles (`qaoa_cut`).
    """
    degrees = np.bincount(np.array(edges).reshape(-1), minlength=n_wires)
    neighbours = [{b for edge in edges for b in edge if vertex in edge and b != vertex} for vertex in range(n_wires)]
    triangles = sum(len(neighbours[a] & neighbours[b]) for a, b in edges) / len(edges)
    density = len(edges) / math.comb(n_wires, 2)
    return density, float(degrees.mean()), float(degrees.std()), triangles


def max_cut_problem(
    n_wires: int = 8,
    graph: str = "erdos_renyi",
    probability: float = 0.5,
    degree: int = 3,
    n_layers: int = 1,
    ansatz: str = "qaoa",
    seed: int = 0,
) -> EnergyProblem:
    """Max-Cut of a connected random graph: the energy is minus the number of edges cut.

    Guessing at random cuts half of the edges, which is what a start at zero angles gives with "qaoa".

    Args:
        n_wires: number of vertices, 2 to 22.
        graph: "erdos_renyi" or "regular", see `random_graph`.
        probability: of an edge, for "erdos_renyi".
        degree: edges at a vertex, for "regular".
        n_layers: layers of the circuit.
        ansatz: "qaoa" (`qaoa_circuit`, two angles a layer) or "hardware_efficient" (RY, RZ, CNOTs on a ring, RY).
        seed: decides the graph.

    Returns:
        the problem. Its descriptor are `graph_numbers` for "qaoa", of one length for graphs of all sizes; for
        "hardware_efficient", whose angles know the vertices, 1 or 0 for each pair of vertices.

    Raises:
        ValueError: for an unknown graph or ansatz, or sizes that do not fit.

    Example:
        >>> problem = max_cut_problem(6, "regular", degree=3)
        >>> problem.name, problem.circuit.n_angles
        ('max-cut-regular-6', 2)
    """
    edges = random_graph(n_wires, graph, probability, degree, seed)
    return graph_problem(n_wires, edges, n_layers, ansatz, f"max-cut-{graph.replace('_', '-')}-{n_wires}")


def graph_problem(
    n_wires: int, edges: Edges, n_layers: int = 1, ansatz: str = "qaoa", name: str = "max-cut"
) -> EnergyProblem:
    """Max-Cut of a given graph; arguments, descriptor and errors as `max_cut_problem`."""
    if ansatz not in CUT_ANSATZE:
        raise ValueError(f"max_cut: ansatz={ansatz!r}; choose one of {', '.join(map(repr, CUT_ANSATZE))}")
    optimum = best_cut(n_wires, edges)
    if ansatz == "qaoa":
        circuit, descriptor = qaoa_circuit(n_wires, edges, n_layers), graph_numbers(n_wires, edges)
    else:
        circuit = ryrz_ring_ry(n_wires, n_layers)
        present = set(edges)
        descriptor = tuple(float((a, b) in present) for a in range(n_wires) for b in range(a + 1, n_wires))
    return EnergyProblem(name, circuit, max_cut(n_wires, edges), -float(optimum), descriptor)


def max_cut_family(
    n_wires: int = 8,
    graph: str = "erdos_renyi",
    probability: float = 0.5,
    degree: int = 3,
    n_layers: int = 1,
    ansatz: str = "qaoa",
) -> Family:
    """Max-Cut on graphs drawn at random; arguments and errors as `max_cut_problem`.

    Example:
        >>> draw = max_cut_family(6)
        >>> draw(torch.Generator().manual_seed(1)).name
        'max-cut-erdos-renyi-6'
    """
    random_graph(n_wires, graph, probability, degree)  # refuses what cannot be drawn before anything is trained

    def draw(generator: torch.Generator | None = None) -> EnergyProblem:
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        return max_cut_problem(n_wires, graph, probability, degree, n_layers, ansatz, seed)

    return draw
