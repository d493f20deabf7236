"""Batches of amplitude-embedded circuits, differentiated: Ketune beside every simulator that can be installed.

The work item is one forward and backward pass of sum(out * weights): real float32 features (B, 2^n) are normalised and
embedded as amplitudes, n_layers of rotations on every wire and a ring of CNOTs follow ("complex": RX, RY, RZ; "real":
RY), and out is the Pauli-Z expectation of every wire; the gradients go to the features and to the angles.

Every simulator runs in a process of its own. All are checked against a float64 reference first (values and gradients).
Then they take turns, so that a busy machine slows all alike; the figure is the median CPU time of a call (wall time
with more threads).

    python benchmarks/peers/install.py          # once: the peers, in an environment of their own
    python benchmarks/simulators.py             # a small grid, about three minutes
    python benchmarks/simulators.py --wires 6 8 10 12 --layers 2 4 --samples 64 512 2048 --json runs/full.json
    python benchmarks/simulators.py --json runs/full.json --tables  # only print what the file holds

A grid that was interrupted goes on where it stopped: the JSON file keeps finished cells.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import limits
from peers import PEERS, ROTATIONS
from peers._process import PeerProcess, environment
from peers._reference import reference
from peers._tables import print_tables

ROOT = Path(__file__).resolve().parents[1]
FEW = 16
"""Distinct samples of the batch that is checked; larger batches repeat them."""

Cell = dict[str, Any]


def textbook_operations(n_wires: int, n_layers: int, kind: str, n_samples: int) -> float:
    """Floating-point operations of the gate-by-gate algorithm of the textbooks.

    Every rotation is applied three times, as a dense 2 x 2 matrix: to the state, to the adjoint on the way back, and
    for its derivative. That is 28 operations a pair of amplitudes each time, 6 in real arithmetic (kind "real").
    CNOTs, normalisation and readout count nothing.
    """
    rotations = n_layers * n_wires * len(ROTATIONS[kind])
    per_pair = 28 if kind == "complex" else 6
    return 3.0 * rotations * per_pair * 2 ** (n_wires - 1) * n_samples


def write_case(file: Path, n_wires: int, n_layers: int, kind: str, n_samples: int) -> None:
    """The inputs of one cell, and the few samples that are checked, with their reference."""
    generator = np.random.default_rng([n_wires, n_layers, n_samples])
    x = generator.standard_normal((n_samples, 2**n_wires), np.float32)
    angles = generator.uniform(-np.pi, np.pi, (n_layers, n_wires, len(ROTATIONS[kind]))).astype(np.float32)
    weights = generator.standard_normal((n_samples, n_wires), np.float32)
    few = min(FEW, n_samples)
    out, dx, dangles = reference(x[:few], angles, weights[:few], kind)
    inputs = {"x": x, "angles": angles, "weights": weights, "x_few": x[:few], "weights_few": weights[:few]}
    np.savez(file, allow_pickle=False, **inputs, out=out, dx=dx, dangles=dangles)


def check(peer: PeerProcess, file: Path, size: tuple[str, int, int], tolerance: float) -> dict[str, Any]:
    """One peer's answer to "prepare": its row of the cell so far, or why it has none.

    Args:
        peer: the process.
        file: of the case.
        size: kind, wires and layers.
        tolerance: largest relative error.
    """
    kind, n_wires, n_layers = size
    answer = peer.ask("prepare", file=str(file), n_wires=n_wires, n_layers=n_layers, kind=kind)
    if "failed" in answer:
        return answer
    wrong = {key: f"{error:.1e}" for key, error in answer["errors"].items() if not error <= tolerance}
    if wrong:
        peer.ask("drop")
        return {"failed": f"wrong: relative errors {wrong}"}
    return answer


def measure(cell: Cell, peers: dict[str, PeerProcess], args: argparse.Namespace, hopeless: set[str]) -> None:
    """Fills a cell: checks all peers, then lets them take turns. `hopeless` peers failed at a smaller size."""
    size = cell["kind"], cell["n_wires"], cell["n_layers"]
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.npz"
        write_case(file, cell["n_wires"], cell["n_layers"], cell["kind"], cell["n_samples"])
        for module, peer in peers.items():
            if module in hopeless:
                rows[module] = {"failed": "not tried: failed at a smaller size"}
                continue
            tolerance = args.tolerance if module == "ketune" else args.peers_tolerance
            rows[module] = check(peer, file, size, tolerance)
            shown = rows[module].get("failed") or f"{1e3 * rows[module]['cpu']:.1f} ms"
            print(f"  {module}: {shown}", file=sys.stderr, flush=True)
    calls = {name: {"cpu": [], "wall": []} for name, row in rows.items() if "failed" not in row}
    for turn in range(args.turns):
        for module in list(calls):
            spent = sum(calls[module]["wall"])
            if turn > 0 and spent > args.seconds:
                continue
            answer = peers[module].ask("turn", seconds=0.05)
            if "failed" in answer:
                rows[module] = answer
                del calls[module]
                continue
            for clock, times in calls[module].items():
                times += answer[clock]
            if args.threads > 1:
                time.sleep(0.25)  # threads that spin before they sleep must not run into the next peer's turn
    for module, times in calls.items():
        row = rows[module]
        # A slow peer has taken one turn only: the call in which memory was measured counts as well.
        cpu, wall = (statistics.median(times[clock] + [row[clock]] * (len(times[clock]) < 3)) for clock in times)
        clock = "cpu" if args.threads == 1 else "wall"
        rows[module] = {
            "ms": 1e3 * (cpu if args.threads == 1 else wall),
            "fastest_ms": 1e3 * min(*times[clock], row[clock]),
            "cpu_ms": 1e3 * cpu,
            "wall_ms": 1e3 * wall,
            "calls": len(times["cpu"]),
            "first_s": row["first_s"],
            "results_mib": results_bytes(cell, row["errors"]) / 2**20,
            "peak_mib": None if row["peak_bytes"] is None else row["peak_bytes"] / 2**20,
            "errors": row["errors"],
        }
        if row.get("operations") is not None:
            rows[module]["plan_operations"] = row["operations"]
        peers[module].ask("drop")
    cell["peers"] = rows


def results_bytes(cell: Cell, results: Collection[str]) -> int:
    """Size of what a peer returns: as far as they are in `results`, "out" and the gradients "x" and "angles"."""
    n_wires, n_samples = cell["n_wires"], cell["n_samples"]
    n_angles = cell["n_layers"] * n_wires * len(ROTATIONS[cell["kind"]])
    sizes = {"out": n_samples * n_wires, "x": n_samples * 2**n_wires, "angles": n_angles}
    return 4 * sum(sizes[name] for name in results)


def finished(cell: Cell | None, modules: list[str]) -> bool:
    """Whether a cell of the file holds all peers; one in which Ketune itself failed is measured again."""
    rows = {} if cell is None else cell["peers"]
    return set(modules) <= set(rows) and "failed" not in rows.get("ketune", {})


def engine_version(source: Path | None) -> str:
    """The last commit that changed Ketune's source, with a plus when files differ from it."""
    if source is not None:
        return f"source at {source}"
    git = ["git", "-C", str(ROOT)]
    try:
        # Not HEAD: a page committed while a grid runs must not make two engines of one.
        last = [*git, "log", "-1", "--format=%h", "--", "src"]
        commit = subprocess.run(last, capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def idlest_processors() -> list[int]:
    """The processors that this process may use, the least busy of the last second first."""

    def idle() -> dict[int, int]:
        lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
        return {int(words[0][3:]): int(words[4]) for words in lines if words[0][:3] == "cpu" and words[0] != "cpu"}

    before = idle()
    time.sleep(1.0)
    after = idle()
    return sorted(os.sched_getaffinity(0), key=lambda core: before.get(core, 0) - after.get(core, 0))


def cpu_model() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def grid(args: argparse.Namespace) -> Iterator[Cell]:
    """The cells, the cheap ones first."""
    for kind, n_wires, n_layers, n_samples in product(args.kinds, args.wires, args.layers, args.samples):
        operations = textbook_operations(n_wires, n_layers, kind, n_samples)
        yield {
            "kind": kind,
            "n_wires": n_wires,
            "n_layers": n_layers,
            "n_samples": n_samples,
            "textbook_operations": operations,
        }


def write(record: dict[str, Any], file: Path) -> None:
    """Writes beside the file and renames, so that an interrupted run leaves a whole one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1))
    partial.replace(file)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wires", type=int, nargs="+", default=[6, 8], help="default 6 8")
    parser.add_argument("--layers", type=int, nargs="+", default=[2], help="default 2")
    parser.add_argument("--samples", type=int, nargs="+", default=[512], help="batch sizes (default 512)")
    parser.add_argument("--kinds", nargs="+", default=["complex", "real"], choices=sorted(ROTATIONS))
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS, help="default all")
    parser.add_argument("--threads", type=int, default=1, help="more than one: wall time (default 1)")
    parser.add_argument("--turns", type=int, default=7, help="turns of each peer (default 7)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="a peer that used these takes no more turns (default 5)"
    )
    parser.add_argument("--time-cap", type=float, default=300.0, help="CPU seconds for one command (default 300)")
    parser.add_argument("--memory-cap", type=float, default=12.0, help="GiB that a peer may hold (default 12)")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest relative error of Ketune (default 1e-5)")
    parser.add_argument("--peers-tolerance", type=float, default=1e-3, help="the same of the peers (default 1e-3)")
    parser.add_argument("--peers-env", type=Path, default=ROOT / ".venv-peers", help="the peers' environment")
    parser.add_argument(
        "--source", type=Path, help="folder that holds the package ketune, in place of the installed one"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "runs/benchmarks/simulators.json", help="results, kept")
    parser.add_argument("--fresh", action="store_true", help="forget the file's cells")
    parser.add_argument("--tables", action="store_true", help="measure nothing, print what the file holds")
    return parser.parse_args()


def main() -> None:
    """Measures what the JSON file does not hold yet, and prints the tables."""
    args = parse()
    record: dict[str, Any] = {"cells": {}}
    if args.json.exists() and not args.fresh:
        record = json.loads(args.json.read_text())
    if args.tables:
        print_tables(record)
        return
    asked = list(grid(args))
    keys = {" ".join(str(v) for v in (*list(cell.values())[:4], f"{args.threads}t")): cell for cell in asked}
    missing = {key: cell for key, cell in keys.items() if not finished(record["cells"].get(key), args.peers)}
    if missing:
        run_cells(missing, record, args)
    print_tables({**record, "cells": {key: record["cells"][key] for key in keys}})


def run_cells(missing: dict[str, Cell], record: dict[str, Any], args: argparse.Namespace) -> None:
    """Measures the missing cells, one after the other, and writes the file after each."""
    available = idlest_processors()
    if args.threads > len(available):
        raise SystemExit(f"--threads {args.threads}: this machine lends {len(available)} processors; ask for no more")
    os.sched_setaffinity(0, available[: args.threads])  # peers inherit it: none uses more threads than asked for
    machine = limits.measure(args.threads)
    log = args.json.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    peers_python = args.peers_env.absolute() / "bin" / "python"
    source = args.source.absolute() if args.source else None
    peers = {}
    for module in args.peers:
        python = Path(sys.executable) if module == "ketune" else peers_python
        variables = environment(args.threads, source if module == "ketune" else None)
        peers[module] = PeerProcess(module, python, variables, args.time_cap, args.memory_cap * 2**30, log)
    told = record.setdefault("peers", {})
    for module, peer in list(peers.items()):
        told[module] = peer.start()
        if "failed" in told[module]:
            print(f"{module}: {told[module]['failed']}", file=sys.stderr)
    failures: dict[str, list[tuple[Any, ...]]] = {module: [] for module in peers}
    try:
        for key, cell in missing.items():
            print(key, file=sys.stderr, flush=True)
            start = time.perf_counter()
            size = cell["n_wires"], cell["n_layers"], cell["n_samples"]
            hopeless = {
                module
                for module, sizes in failures.items()
                if any(kind == cell["kind"] and all(a <= b for a, b in zip(small, size)) for kind, *small in sizes)
            }
            measure(cell, peers, args, hopeless)
            for module, row in cell["peers"].items():
                if row.get("failed", "").startswith(("more than", "no answer")):
                    failures[module].append((cell["kind"], *size))
            cell |= {
                "threads": args.threads,
                "engine": engine_version(args.source),
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "took_s": time.perf_counter() - start,
                "limits": machine,
            }
            record["cells"][key] = cell
            record["machine"] = cpu_model()
            write(record, args.json)
    finally:
        for peer in peers.values():
            peer.stop()


if __name__ == "__main__":
    main()
