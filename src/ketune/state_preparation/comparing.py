"""All loaders on one vector, at the same numbers of CNOTs: rows for a table, and a picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ketune.state_preparation.prepare import LoadingError, LoadingOptions, prepare_state

COMPARED = ("low_rank", "mps", "aqce", "hardware_efficient", "aqer")
"""Methods that load approximately, AQER last."""

_FLOOR = 1e-6  # what is smaller is drawn there, or one exact point would take most of the picture


@dataclass(frozen=True)
class LoaderRow:
    """What one method made of a number of CNOTs.

    Args:
        method: its name.
        max_cnots: the CNOTs that it was allowed.
        n_cnots: those that it has after transpiling.
        depth: of the transpiled circuit.
        infidelity: of the loaded state.
        polished: whether all angles were tuned together.
        seconds: how long it took.
    """

    method: str
    max_cnots: int
    n_cnots: int
    depth: int
    infidelity: float
    polished: bool
    seconds: float


def compare_loaders(
    vector: Tensor,
    max_cnots: Sequence[int],
    methods: Iterable[str] = COMPARED,
    *,
    polished: Sequence[bool] = (False, True),
    basis: str = "cx",
    options: LoadingOptions | None = None,
    on_row: Callable[[LoaderRow], None] | None = None,
) -> list[LoaderRow]:
    """Each method with each number of CNOTs, with and without a joint optimisation of its angles.

    A method that has no circuit of so few CNOTs is left out there. "hardware_efficient" is nothing without training, so
    it has no row without.

    Args:
        vector: as `prepare_state`.
        max_cnots: budgets.
        methods: names, as `prepare_state`.
        polished: whether to tune, whether not to, or both.
        basis: as `prepare_state`.
        options: as `prepare_state`; `polish` is set by `polished`.
        on_row: called with each row as it is found.
    """
    options = options or LoadingOptions()
    rows = []
    for method in methods:
        for budget in max_cnots:
            for tuned in polished:
                if method == "hardware_efficient" and not tuned:
                    continue
                began = time.perf_counter()
                try:
                    found = prepare_state(
                        vector, method, max_cnots=budget, basis=basis, options=replace(options, polish=tuned)
                    )
                except LoadingError:
                    continue
                seconds = time.perf_counter() - began
                counted = found.counts
                row = LoaderRow(method, budget, counted.n_cnots, counted.depth, found.infidelity, tuned, seconds)
                rows.append(row)
                if on_row is not None:
                    on_row(row)
    return rows


def loaders_picture(rows: Sequence[LoaderRow], title: str = "") -> bytes:
    """Infidelity against CNOTs, a line for each method: filled marks and full lines with joint optimisation.
    Infidelities below 1e-6 are drawn at 1e-6.

    Returns:
        a PNG.
    """
    from ketune.pictures import MARKERS, colour_of, drawing, new_axes, to_png

    with drawing():
        figure, axes = new_axes("CNOTs", "infidelity")
        for number, method in enumerate(dict.fromkeys(row.method for row in rows)):
            for tuned in (True, False):
                points = sorted((r.n_cnots, r.infidelity) for r in rows if r.method == method and r.polished == tuned)
                if points:
                    axes.plot(
                        *zip(*((x, max(y, _FLOOR)) for x, y in points)),
                        color=colour_of(number),
                        marker=MARKERS[number % len(MARKERS)],
                        linestyle="-" if tuned else ":",
                        markerfacecolor=colour_of(number) if tuned else "white",
                        label=f"{method.replace('_', ' ')}{'' if tuned else ', as built'}",
                    )
        axes.set_yscale("log")
        axes.set_title(title)
        axes.legend(fontsize=8, frameon=False)
        return to_png(figure)
