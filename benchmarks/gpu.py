"""The work item of `benchmarks/simulators.py` on a CUDA device: Ketune in all its forms beside what runs there.

Every simulator runs in a process of its own and is checked against the float64 reference first. Times are by the
device's clock (torch) or wall times of a finished call (JAX, Lightning); memory is the device's, as torch counts it.
Ketune runs by matrix products and in the Triton kernels, in each precision, call by call and as a replayed CUDA graph.

    python benchmarks/peers/install.py --cuda
    python benchmarks/gpu.py                       # a small grid
    python benchmarks/gpu.py --wires 8 10 12 --layers 2 4 --samples 64 2048 16384 --json runs/benchmarks/gpu.json
    python benchmarks/gpu.py --tables              # only print what the file holds

The last column says what share of the device's speed a call reaches: the time that the device needs at least, for the
call's traffic at the bandwidth of a copy or for its operations at the rate of large products in the same precision,
whichever is longer, over the time that the call took.

Without a CUDA device the script says so and ends with status 2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import torch

import limits
from peers import GPU_PEERS, ROTATIONS
from peers._process import PeerProcess, gpu_environment
from peers._tables import number, size, table
from simulators import ROOT, check, engine_version, results_bytes, write, write_case

NO_DEVICE = """benchmarks/gpu.py: torch finds no CUDA device here, so there is nothing to measure.
On a machine with an NVIDIA GPU install a CUDA build of torch (https://pytorch.org), run
`python -c "from ketune.circuits import calibrate; calibrate()"` once, then this script again."""

TOLERANCES = {"highest": 1e-5, "tf32x3": 1e-4, "tf32": 5e-2}
"""Largest relative error of Ketune, by precision: ten times what `benchmarks/precision.py` shows."""

FORMS = {"products": "0", "Triton": "1"}
"""Ketune's forms, and the value of KETUNE_TRITON that forces each."""


def variants(precisions: list[str]) -> dict[str, dict[str, str]]:
    """The rows of Ketune, and the variables of the environment that make each."""
    rows = {}
    for precision, (form, forced), graph in product(precisions, FORMS.items(), (False, True)):
        name = f"Ketune, {form}, {precision}" + ", graph" * graph
        rows[name] = {
            "KETUNE_TRITON": forced,
            "KETUNE_BENCHMARK_PRECISION": precision,
            "KETUNE_BENCHMARK_GRAPH": str(int(graph)),
        }
    return rows


def least_milliseconds(
    cell: dict[str, Any], operations: float, precision: str, machine: dict[str, Any]
) -> tuple[float, str]:
    """What the device needs at least for a call of Ketune, and what binds: "copy" or "products".

    Features are read in each direction and their gradients are written once; readouts, weights and angles are small.
    """
    traffic = 3 * 4 * cell["n_samples"] * 2 ** cell["n_wires"]
    times = {"copy": traffic / machine["copy"], "products": operations / machine["gemm"][precision]}
    bound = max(times, key=lambda name: times[name])
    return times[bound] / 1e6, bound


def summary(cell: dict[str, Any], row: dict[str, Any], precision: str, machine: dict[str, Any]) -> dict[str, Any]:
    """A row as it is kept: the median, memory, and the share of the device's speed where the operations are known."""
    ms = 1e3 * statistics.median(row["wall"])
    kept = {
        "ms": ms,
        "calls": len(row["wall"]),
        "first_s": row["first_s"],
        "errors": row["errors"],
        "peak_mib": None if row["peak_bytes"] is None else row["peak_bytes"] / 2**20,
        "results_mib": results_bytes(cell, row["errors"]) / 2**20,
    }
    if row.get("operations") is not None:
        least, bound = least_milliseconds(cell, row["operations"], precision, machine)
        kept |= {"plan_operations": row["operations"], "share": least / ms, "bound": bound}
    return kept


def measure(
    cell: dict[str, Any],
    processes: dict[str, PeerProcess],
    precisions: dict[str, str],
    machine: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Fills a cell; the simulators take turns. `precisions` names those of Ketune's rows."""
    rows: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.npz"
        write_case(file, cell["n_wires"], cell["n_layers"], cell["kind"], cell["n_samples"])
        for name, process in processes.items():
            tolerance = TOLERANCES[precisions[name]] if name in precisions else args.peers_tolerance
            rows[name] = check(process, file, (cell["kind"], cell["n_wires"], cell["n_layers"]), tolerance)
            if "failed" not in rows[name]:
                times[name] = []
            print(f"  {name}: {rows[name].get('failed', 'ready')}", file=sys.stderr, flush=True)
    for _ in range(args.turns):
        for name in list(times):
            answer = processes[name].ask("turn", seconds=0.05)
            if "failed" in answer:
                rows[name] = answer
                del times[name]
            else:
                times[name] += answer["wall"]
    for name, taken in times.items():
        rows[name] = summary(cell, {**rows[name], "wall": taken}, precisions.get(name, "highest"), machine)
        processes[name].ask("drop")
    cell["peers"] = rows


def print_tables(record: dict[str, Any]) -> None:
    """Every cell of the record: times, memory, errors and shares, the quickest first."""
    machine = record["limits"]
    print(f"{machine['device']}\n{limits.describe_cuda(machine)}")
    for cell in record["cells"].values():
        print(f"\n## {cell['kind']}, {size(cell)} (wires, layers, samples); engine at {cell['engine']}\n")
        measured = sorted((r["ms"], name) for name, r in cell["peers"].items() if "ms" in r)
        lines = []
        for ms, name in measured:
            row = cell["peers"][name]
            share = "-" if "share" not in row else f"{row['share']:.2f} ({row['bound']})"
            peak = "-" if row["peak_mib"] is None else number(max(0.0, row["peak_mib"] - row["results_mib"]))
            lines.append([name, number(ms), peak, f"{max(row['errors'].values()):.0e}", share])
        print(table(["simulator", "ms", "MiB", "error", "share of the device's speed"], lines))
        for name, row in cell["peers"].items():
            if "failed" in row:
                print(f"\n- {name}: {row['failed']}")


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wires", type=int, nargs="+", default=[8, 10], help="default 8 10")
    parser.add_argument("--layers", type=int, nargs="+", default=[2], help="default 2")
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 2048], help="batch sizes (default 64 2048)")
    parser.add_argument("--kinds", nargs="+", default=["complex", "real"], choices=sorted(ROTATIONS))
    parser.add_argument("--precisions", nargs="+", default=list(TOLERANCES), choices=list(TOLERANCES))
    parser.add_argument("--peers", nargs="*", default=list(GPU_PEERS), choices=GPU_PEERS, help="default all")
    parser.add_argument("--turns", type=int, default=5, help="turns of up to 20 calls (default 5)")
    parser.add_argument("--time-cap", type=float, default=300.0, help="CPU seconds for one command (default 300)")
    parser.add_argument("--memory-cap", type=float, default=64.0, help="GiB of host memory of a peer (default 64)")
    parser.add_argument("--peers-tolerance", type=float, default=1e-3, help="largest relative error of peers")
    parser.add_argument("--peers-env", type=Path, default=ROOT / ".venv-peers", help="the peers' environment")
    parser.add_argument("--source", type=Path, help="folder with the package ketune, in place of the installed one")
    parser.add_argument("--json", type=Path, default=ROOT / "runs/benchmarks/gpu.json", help="results")
    parser.add_argument("--tables", action="store_true", help="measure nothing, print what the file holds")
    return parser.parse_args()


def start(args: argparse.Namespace) -> dict[str, PeerProcess]:
    """A process for each row: Ketune's variants, then the peers."""
    log = args.json.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    source = args.source.absolute() if args.source else None
    caps = (args.time_cap, args.memory_cap * 2**30, log)
    own, peers_python = Path(sys.executable), args.peers_env.absolute() / "bin" / "python"
    processes = {
        name: PeerProcess("ketune", own, {**gpu_environment(source), **variables}, *caps)
        for name, variables in variants(args.precisions).items()
    }
    for module in args.peers:
        processes[module] = PeerProcess(module, peers_python, gpu_environment(), *caps)
    return processes


def main() -> int:
    """Measures the grid and prints the tables."""
    args = parse()
    if args.tables:
        if not args.json.exists():
            raise SystemExit(f"--tables: there is no {args.json}; measure first, or name another file with --json")
        print_tables(json.loads(args.json.read_text()))
        return 0
    if not torch.cuda.is_available():
        print(NO_DEVICE, file=sys.stderr)
        return 2
    machine = limits.measure_cuda()
    processes = start(args)
    precisions = {name: row["KETUNE_BENCHMARK_PRECISION"] for name, row in variants(args.precisions).items()}
    record: dict[str, Any] = {"limits": machine, "cells": {}}
    try:
        record["versions"] = {name: process.start() for name, process in processes.items()}
        for kind, n_wires, n_layers, n_samples in product(args.kinds, args.wires, args.layers, args.samples):
            cell = {"kind": kind, "n_wires": n_wires, "n_layers": n_layers, "n_samples": n_samples}
            print(*cell.values(), file=sys.stderr, flush=True)
            measure(cell, processes, precisions, machine, args)
            cell |= {"engine": engine_version(args.source), "created_at": datetime.now(UTC).isoformat("T", "seconds")}
            record["cells"][" ".join(map(str, (kind, n_wires, n_layers, n_samples)))] = cell
            write(record, args.json)
    finally:
        for process in processes.values():
            process.stop()
    print_tables(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
