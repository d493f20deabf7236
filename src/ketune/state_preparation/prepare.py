"""`prepare_state`: one call for every way to load a vector, within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ketune.circuits import Circuit
from ketune.state_preparation.aqce import aqce
from ketune.state_preparation.aqer import OnProgress, aqer
from ketune.state_preparation.blocks import block_of
from ketune.state_preparation.entanglement import (
    as_states,
    bloch_vectors,
    count_wires,
    is_real,
    loadability,
    product_angles,
)
from ketune.state_preparation.errors import LoadingError
from ketune.state_preparation.exact import isometry, multiplexor
from ketune.state_preparation.hardware_efficient import hardware_efficient
from ketune.state_preparation.low_rank import low_rank
from ketune.state_preparation.pair_circuit import PairCircuit, infidelities
from ketune.state_preparation.polishing import polish
from ketune.state_preparation.prepared import PreparedState, counts
from ketune.state_preparation.staircase import staircase
from ketune.state_preparation.unitary_blocks import circuit_from_gates

EXACT = ("isometry", "multiplexor")
"""Methods that load any vector exactly."""

IN_BLOCKS = ("aqer", "mps", "aqce", "hardware_efficient")
"""Methods whose circuits grow block by block."""

METHODS = ("auto", *EXACT, "low_rank", *IN_BLOCKS)
"""Everything that `prepare_state(method=...)` takes."""

MAX_WIRES = 16


@dataclass(frozen=True)
class LoadingOptions:
    """What the methods share.

    Args:
        polish: tune all angles together at the end, whatever the method.
        block: block of "aqer" ("rzz", "cz", "su4", for real vectors "so4") and of "hardware_efficient". None: for
            "aqer" "so4" where the vector is real and "rzz", the paper's, elsewhere; "cz" for the other.
        connectivity: of "aqer" and "aqce": "all", "line", "ring" or the allowed pairs of wires.
        n_steps: steps of polishing, at most.
        lr: their learning rate.
        seed: of random starts.
    """

    polish: bool = True
    block: str | None = None
    connectivity: str | Sequence[tuple[int, int]] = "all"
    n_steps: int = 1000
    lr: float = 0.02
    seed: int = 0


def prepare_state(
    vector: Tensor,
    method: str = "auto",
    *,
    max_infidelity: float | None = None,
    max_cnots: int | None = None,
    basis: str = "cx",
    options: LoadingOptions | None = None,
    on_progress: OnProgress | None = None,
) -> PreparedState:
    """A circuit that loads a vector into amplitudes.

    Without budgets the exact methods load exactly, "low_rank" takes the full rank, and the methods that grow take as
    many blocks as have the CNOTs of the exact circuit, at least one. With `max_infidelity` each takes the fewest blocks
    (or the smallest rank) that it finds to suffice, by doubling and bisection; with `max_cnots` as many as fit.

    "auto": the product state if its infidelity is allowed; an exact circuit ("multiplexor" for non-negative vectors,
    else "isometry") if no infidelity is allowed and its CNOTs are; with `max_infidelity` the shortest of what
    "low_rank", "mps" and "aqer" find; with `max_cnots` alone the one of them that loads best.

    Args:
        vector: (n_features,) real or complex, of any norm; padded with zeros to a power of two, at most 2 ** 16.
        method: one of `METHODS`.
        max_infidelity: how much infidelity is allowed, between 0 and 1.
        max_cnots: how many CNOTs are allowed, all pairs of wires taken as connected; counted by each method's own
            blocks, before a transpiler saves any.
        basis: gates to count with, as `counts`.
        options: what the methods share.
        on_progress: called with what is being done, how much of it, and of how much.

    Returns:
        circuit, infidelity and counts.

    Raises:
        LoadingError: for budgets that the method does not meet, with what it reached; for an unknown method, budgets
            out of range, or a vector without a direction.

    Example:
        >>> import torch
        >>> from ketune.state_preparation import prepare_state
        >>> ghz = torch.zeros(8)
        >>> ghz[0] = ghz[7] = 1.0
        >>> found = prepare_state(ghz, "mps", max_infidelity=1e-6)
        >>> found.infidelity < 1e-6, found.counts.n_cnots
        (True, 4)
    """
    began = time.perf_counter()
    options = options or LoadingOptions()
    if method not in METHODS:
        raise LoadingError(f"method={method!r}: choose one of {', '.join(map(repr, METHODS))}")
    if max_infidelity is not None and not 0 <= max_infidelity < 1:
        raise LoadingError(f"max_infidelity={max_infidelity}: choose 0 up to, but not, 1")
    if max_cnots is not None and max_cnots < 0:
        raise LoadingError(f"max_cnots={max_cnots}: choose at least 0")
    if vector.ndim != 1:
        raise LoadingError(f"the vector has shape {tuple(vector.shape)}; pass one vector, (n_features,)")
    state = as_states(vector.detach().cpu())
    if count_wires(state) > MAX_WIRES:
        raise LoadingError(f"{vector.numel()} entries take {count_wires(state)} wires; at most {MAX_WIRES}")
    job = _Job(state, max_infidelity, max_cnots, options, on_progress or (lambda *_: None))
    found = job.auto() if method == "auto" else job.run(method)
    return PreparedState(
        found.method,
        found.circuit,
        found.angles,
        found.infidelity,
        counts(found.circuit, found.angles, basis),
        basis,
        time.perf_counter() - began,
    )


@dataclass(frozen=True, eq=False)
class _Found:
    method: str
    circuit: Circuit
    angles: Tensor
    infidelity: float
    n_cnots: int


class _Job:
    """One vector and its budgets."""

    def __init__(
        self,
        state: Tensor,
        max_infidelity: float | None,
        max_cnots: int | None,
        options: LoadingOptions,
        report: OnProgress,
    ) -> None:
        self.state, self.options, self.report = state, options, report
        self.max_infidelity, self.max_cnots = max_infidelity, max_cnots
        self.n_wires = count_wires(state)
        self.exact_cnots = max(0, 2**self.n_wires - self.n_wires - 1)

    def auto(self) -> _Found:
        allowed = self.max_infidelity or 0.0
        if float(loadability(self.state).product) <= max(allowed, 1e-14):
            return self._of("product", self._product())
        if not allowed and (self.max_cnots is None or self.max_cnots >= self.exact_cnots):
            return self.run("multiplexor" if self._is_non_negative() else "isometry")
        tried: list[_Found] = []
        reasons: list[str] = []
        for method in ("low_rank", "mps", "aqer"):
            try:
                tried.append(self.run(method))
            except LoadingError as error:
                reasons.append(str(error))
        if not tried:
            raise LoadingError("no method meets the budget: " + "; ".join(reasons))
        if self.max_infidelity is None:
            return min(tried, key=lambda found: (found.infidelity, found.n_cnots))
        return min(tried, key=lambda found: (found.n_cnots, found.infidelity))

    def run(self, method: str) -> _Found:
        if method in EXACT:
            circuit, angles = (isometry if method == "isometry" else multiplexor)(self.state)
            return self._checked(self._plain(method, circuit, angles, 0.0))
        if method == "low_rank":
            return self._low_rank()
        return self._in_blocks(method)

    def _in_blocks(self, method: str) -> _Found:
        make, cnots = self._maker(method)
        largest = max(1, self.exact_cnots // cnots) if self.max_cnots is None else self.max_cnots // cnots
        largest = largest if self.n_wires > 1 else 0
        if self.max_infidelity is None:
            return self._of(method, make(largest))
        limit, best = self.max_infidelity, self._of(method, make(0))
        low, high = 0, 0
        while best.infidelity > limit and high < largest:
            low, high = high, min(largest, max(1, 2 * high))
            best = self._of(method, make(high))
        if best.infidelity > limit:
            raise self._error(best)
        while high - low > 1:
            middle = (low + high) // 2
            found = self._of(method, make(middle))
            if found.infidelity <= limit:
                high, best = middle, found
            else:
                low = middle
        return best

    def _maker(self, method: str) -> tuple[Callable[[int], PairCircuit], int]:
        """What makes a circuit of so many units, and the CNOTs of one."""
        options, real = self.options, is_real(self.state)
        if method == "aqer":
            block = options.block or ("so4" if real else "rzz")
            each = block_of(block).n_cnots

            def with_aqer(n_blocks: int) -> PairCircuit:
                steps = options.n_steps if options.polish else 0
                loader = aqer(
                    self.state,
                    n_blocks,
                    block=block,
                    connectivity=options.connectivity,
                    n_steps=steps,
                    lr=options.lr,
                    seed=options.seed,
                    on_progress=self.report,
                )[0]
                return loader.circuit

            return with_aqer, each
        each = 2 if real else 3
        if method == "mps":
            layer = (self.n_wires - 1) * each
            return lambda n_layers: self._polished(staircase(self.state, n_layers)), max(1, layer)
        if method == "aqce":
            return lambda n: self._polished(aqce(self.state, n, connectivity=options.connectivity)), each
        block = options.block or "cz"
        found = hardware_efficient(max(2, self.n_wires), 1, block=block).kind.n_cnots

        def trained(n_blocks: int) -> PairCircuit:
            start = hardware_efficient(self.n_wires, n_blocks, block=block, seed=options.seed)
            return self._polished(start, always=True)

        return trained, found

    def _low_rank(self) -> _Found:
        largest = 2 ** (self.n_wires // 2)
        best: _Found | None = None
        unbounded = self.max_infidelity is None and self.max_cnots is None
        for rank in range(largest if unbounded else 1, largest + 1):
            circuit, angles, infidelity = low_rank(self.state, rank)
            found = self._plain("low_rank", circuit, angles, infidelity)
            over = self.max_cnots is not None and found.n_cnots > self.max_cnots
            if over and best is not None:
                break
            if self.options.polish and not over and infidelity > 1e-12:
                found = self._of("low_rank", self._polished(circuit_from_gates(circuit, angles)))
            best = found
            enough = self.max_infidelity is not None and found.infidelity <= self.max_infidelity
            if over or enough or found.infidelity < 1e-12:
                break
        assert best is not None
        return self._checked(best)

    def _polished(self, circuit: PairCircuit, always: bool = False) -> PairCircuit:
        if not (self.options.polish or always):
            return circuit
        n_steps = self.options.n_steps
        return polish(
            [circuit],
            self.state[None],
            n_steps=n_steps,
            lr=self.options.lr,
            on_step=lambda done, _: self.report("polish", done, n_steps),
        )[0]

    def _product(self) -> PairCircuit:
        start = product_angles(bloch_vectors(self.state))
        return PairCircuit(self.n_wires, "rzz", (), start, torch.zeros(0, 5, dtype=torch.float64))

    def _of(self, method: str, circuit: PairCircuit) -> _Found:
        infidelity = float(infidelities([circuit], self.state[None]))
        n_cnots = circuit.kind.n_cnots * len(circuit.pairs)
        return _Found(method, circuit.circuit, circuit.flat_angles, max(0.0, infidelity), n_cnots)

    def _plain(self, method: str, circuit: Circuit, angles: Tensor, infidelity: float) -> _Found:
        return _Found(method, circuit, angles, infidelity, circuit.n_two_wire_gates)

    def _checked(self, found: _Found) -> _Found:
        over = self.max_cnots is not None and found.n_cnots > self.max_cnots
        if over or (self.max_infidelity is not None and found.infidelity > max(self.max_infidelity, 1e-12)):
            raise self._error(found)
        return found

    def _error(self, found: _Found) -> LoadingError:
        wanted = [] if self.max_infidelity is None else [f"an infidelity of {self.max_infidelity:g}"]
        wanted += [] if self.max_cnots is None else [f"{self.max_cnots} CNOTs"]
        return LoadingError(
            f"{found.method} reached an infidelity of {found.infidelity:.3g} with {found.n_cnots} CNOTs; "
            f"{' and '.join(wanted)} were asked for. Allow more of either, or try another method"
        )

    def _is_non_negative(self) -> bool:
        phase = self.state[self.state.abs().argmax()]
        turned = self.state * (phase.conj() / phase.abs())
        return is_real(turned) and float(turned.real.min()) > -1e-14
