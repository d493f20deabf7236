"""The tables of `benchmarks/simulators.py`, in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peers import MATRIX_FORMS, PEERS

Cell = dict[str, Any]


def counted(cell: Cell, told: dict[str, Any]) -> dict[str, Any]:
    """The rows of the peers that do the whole work item with the simulator as it is meant, by module."""
    return {
        module: row
        for module, row in cell["peers"].items()
        if module not in ("ketune", *MATRIX_FORMS) and "ms" in row and not _mark(module, told)
    }


def best_peer(cell: Cell, told: dict[str, Any]) -> str | None:
    """The fastest of the counted peers, or None."""
    rows = counted(cell, told)
    return min(rows, key=lambda module: rows[module]["ms"], default=None)


def lower_bound(cell: Cell, told: dict[str, Any]) -> float | None:
    """The fastest single call of any counted peer over Ketune's median, or None where one of them is missing."""
    ours = cell["peers"].get("ketune", {}).get("ms")
    fastest = [row["fastest_ms"] for row in counted(cell, told).values() if "fastest_ms" in row]
    return min(fastest) / ours if fastest and ours is not None else None


def number(value: float) -> str:
    """Three significant digits, never an exponent."""
    if value >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def row_of(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(head: list[str], rows: list[list[str]], n_left: int = 1) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---" if k < n_left else "---:" for k in range(len(head))]
    return "\n".join(row_of(cells) for cells in (head, rule, *rows))


def size(cell: Cell) -> str:
    return f"{cell['n_wires']}, {cell['n_layers']}, {cell['n_samples']}"


def times_table(cells: list[Cell], told: dict[str, Any], modules: list[str]) -> str:
    """Milliseconds, and in brackets the ratio to Ketune."""
    rows = []
    for cell in cells:
        ours = cell["peers"].get("ketune", {}).get("ms")
        best = best_peer(cell, told)
        row = [size(cell)]
        for module in modules:
            ms = cell["peers"].get(module, {}).get("ms")
            ratio = "" if ms is None or ours is None or module == "ketune" else f" ({number(ms / ours)})"
            row.append("-" if ms is None else number(ms) + ratio)
        if best is None or ours is None:
            row.append("-")
        else:
            row.append(f"**{number(cell['peers'][best]['ms'] / ours)}** {told[best]['name']}")
        bound = lower_bound(cell, told)
        rows.append([*row, "-" if bound is None else number(bound)])
    heads = [
        told[module].get("name", module) + (_mark(module, told) or " †" * (module in MATRIX_FORMS))
        for module in modules
    ]
    return table(["wires, layers, samples", *heads, "best peer / Ketune", "fastest call / Ketune"], rows)


def _mark(module: str, told: dict[str, Any]) -> str:
    return "" if told[module].get("gradients") in (None, ["x", "angles"]) else " *"


def column_table(cells: list[Cell], told: dict[str, Any], modules: list[str], value: Callable[[Any], str]) -> str:
    """One figure a peer, from its row of the cell."""
    rows = [[size(cell), *(value(cell["peers"].get(module, {})) for module in modules)] for cell in cells]
    return table(["wires, layers, samples", *(told[module].get("name", module) for module in modules)], rows)


def _peak(row: dict[str, Any]) -> str:
    return "-" if row.get("peak_mib") is None else number(max(0.0, row["peak_mib"] - row["results_mib"]))


def _error(row: dict[str, Any]) -> str:
    return "-" if "errors" not in row else f"{1e6 * max(row['errors'].values()):.1f}"


def _first(row: dict[str, Any]) -> str:
    return "-" if "first_s" not in row else number(max(0.0, row["first_s"] - row["wall_ms"] / 1e3))


def limits_table(cells: list[Cell]) -> str:
    """Ketune's rate in textbook operations and in those of its plan, and both as a fraction of the GEMM rate."""
    rows = []
    for cell in cells:
        row, gemm = cell["peers"].get("ketune", {}), cell["limits"]["gemm"]
        if "ms" not in row:
            continue
        counts = [cell["textbook_operations"], row.get("plan_operations")]
        rates = [None if count is None else count / row["ms"] / 1e6 for count in counts]
        figures = [
            text for rate in rates for text in (("-", "-") if rate is None else (f"{rate:.1f}", f"{rate / gemm:.2f}"))
        ]
        rows.append([size(cell), number(row["ms"]), *figures])
    head = ["wires, layers, samples", "ms", "textbook GFLOP/s", "/ GEMM rate", "plan GFLOP/s", "/ GEMM rate"]
    return table(head, rows)


def _plan_fraction(cell: Cell) -> str:
    """Ketune's rate in the operations of its plan as a fraction of the GEMM rate."""
    row = cell["peers"].get("ketune", {})
    if row.get("plan_operations") is None:
        return "-"
    return f"{row['plan_operations'] / row['ms'] / 1e6 / cell['limits']['gemm']:.2f}"


def growth_table(cells: list[Cell]) -> str:
    """Ketune's milliseconds, a row a number of wires; last, the plan's fraction at the largest batch, by depth."""
    found = {(cell["n_wires"], cell["n_layers"], cell["n_samples"]): cell for cell in cells}
    depths = sorted({n_layers for _, n_layers, _ in found})
    batches = sorted({n_samples for _, _, n_samples in found})
    rows = []
    for n_wires in sorted({n_wires for n_wires, _, _ in found}):
        row = [str(n_wires)]
        for n_layers in depths:
            for n_samples in batches:
                ms = found.get((n_wires, n_layers, n_samples), {"peers": {}})["peers"].get("ketune", {}).get("ms")
                row.append("-" if ms is None else number(ms))
        largest = [found.get((n_wires, n_layers, batches[-1])) for n_layers in depths]
        rows.append([*row, ", ".join("-" if cell is None else _plan_fraction(cell) for cell in largest)])
    columns = [f"L = {n_layers}, B = {n_samples}" for n_layers in depths for n_samples in batches]
    return table(["wires", *columns, f"plan / GEMM rate, B = {batches[-1]}"], rows)


def print_tables(record: dict[str, Any]) -> None:
    """Every table of every kind and number of threads in the record."""
    told = record["peers"]
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in record["cells"].values():
        groups.setdefault((cell["kind"], cell["threads"]), []).append(cell)
    packages = {name: version for peer in told.values() for name, version in peer.get("versions", {}).items()}
    print(f"{record.get('machine', '')}; " + ", ".join(f"{name} {version}" for name, version in packages.items()))
    for (kind, threads), cells in groups.items():
        cells.sort(key=lambda cell: (cell["n_wires"], cell["n_layers"], cell["n_samples"]))
        ran = {module for cell in cells for module, row in cell["peers"].items() if "ms" in row}
        modules = [module for module in PEERS if module in ran]
        clock = "CPU time" if threads == 1 else "wall time"
        engines = ", ".join(sorted({cell["engine"] for cell in cells}))
        gemm = ", ".join(sorted({f"{cell['limits']['gemm']:.0f}" for cell in cells}))
        print(f"\n## {kind}, {threads} thread(s)\n\nEngine at {engines}. GEMM rate {gemm} GFLOP/s.")
        print(f"\nMilliseconds a call (median {clock}); in brackets the ratio to Ketune.\n")
        print(times_table(cells, told, modules))
        if any(_mark(module, told) for module in modules):
            print("\n\\* one sample at a time and no gradient to the features: less work, not counted as best peer")
        if any(module in MATRIX_FORMS for module in modules):
            print("\n† our idea on their simulator: the circuit's matrix once a call; not counted as best peer")
        print("\nPeak memory of a call in MiB, beyond its inputs and results.\n")
        print(column_table(cells, told, modules, _peak))
        print("\nLargest relative error of values and gradients, in norm, in millionths.\n")
        print(column_table(cells, told, modules, _error))
        compiled = [module for module in modules if told[module]["note"].startswith("compiled")]
        if compiled:
            print("\nSeconds of the first call beyond a later one: compilation, not part of the times above.\n")
            print(column_table(cells, told, compiled, _first))
        print("\nKetune against the machine.\n")
        print(limits_table(cells))
        if "ketune" in modules and len(cells) > 1:
            print("\nKetune's milliseconds, as wires (rows), layers and samples grow.\n")
            print(growth_table(cells))
        reasons: dict[str, list[str]] = {}
        for cell in cells:
            for module, row in cell["peers"].items():
                if "failed" in row:
                    reasons.setdefault(f"{told[module].get('name', module)}: {row['failed']}", []).append(size(cell))
        if reasons:
            print("\nNot measured (wires, layers, samples):\n")
            print(*(f"- {reason} ({'; '.join(sizes)})" for reason, sizes in sorted(reasons.items())), sep="\n")
