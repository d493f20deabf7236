"""The benchmark of simulators: its reference, its processes and its choice of the best peer."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ketune.circuits import run, rxryrz_ring, ry_ring

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers")


@pytest.mark.parametrize(("kind", "ansatz"), [("complex", rxryrz_ring), ("real", ry_ring)])
def test_the_reference_agrees_with_run_in_float64(peers: ModuleType, kind: str, ansatz) -> None:
    reference = importlib.import_module("peers._reference").reference
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, 16))
    angles = generator.uniform(-3, 3, (2, 4, len(peers.ROTATIONS[kind])))
    weights = generator.standard_normal((3, 4))
    out, dx, dangles = reference(x, angles, weights, kind)

    inputs = torch.tensor(x, requires_grad=True), torch.tensor(angles, requires_grad=True)
    ours = run(ansatz(4, 2), inputs[0], inputs[1].flatten())
    gradients = torch.autograd.grad(ours, inputs, torch.tensor(weights))
    np.testing.assert_allclose(out, ours.detach(), atol=1e-12)
    np.testing.assert_allclose(dx, gradients[0], atol=1e-12)
    np.testing.assert_allclose(dangles.sum(0), gradients[1], atol=1e-12)


def _process(peers: ModuleType, module: str, log: Path, time_cap: float = 120.0):
    processes = importlib.import_module("peers._process")
    return processes.PeerProcess(module, Path(sys.executable), processes.environment(1), time_cap, 2**36, log)


def test_a_peer_without_its_simulator_says_so(peers: ModuleType, tmp_path: Path) -> None:
    process = _process(peers, "no_such_peer", tmp_path / "log")
    assert process.ask("hello")["failed"].startswith("not installed")
    process.stop()


def test_a_peer_that_takes_too_long_is_stopped_and_said_so(peers: ModuleType, tmp_path: Path) -> None:
    process = _process(peers, "plain_torch", tmp_path / "log", time_cap=0.2)
    assert process.ask("hello")["failed"] in ("more than 0.2 s of CPU time", "no answer in 2 s")
    assert process.process is None


def test_the_best_peer_does_the_whole_work_as_it_is_meant(peers: ModuleType) -> None:
    tables = importlib.import_module("peers._tables")
    whole, partly = {"gradients": ["x", "angles"]}, {"gradients": ["angles"]}
    told = {"ketune": whole, "pyqtorch": whole, "lightning": partly, peers.MATRIX_FORMS[0]: whole, "deepquantum": whole}
    rows = {"ketune": {"ms": 1}, "pyqtorch": {"ms": 9}, "lightning": {"ms": 2}, peers.MATRIX_FORMS[0]: {"ms": 3}}
    cell = {"peers": {**rows, "deepquantum": {"failed": "not installed"}}}
    assert tables.best_peer(cell, told) == "pyqtorch"


def test_the_bound_of_a_ratio_takes_the_fastest_call_of_the_counted_peers(peers: ModuleType) -> None:
    tables = importlib.import_module("peers._tables")
    whole, partly = {"gradients": ["x", "angles"]}, {"gradients": ["angles"]}
    told = {"ketune": whole, "pyqtorch": whole, "deepquantum": whole, "lightning": partly}
    rows = {
        "ketune": {"ms": 2.0, "fastest_ms": 1.0},
        "pyqtorch": {"ms": 9.0, "fastest_ms": 8.0},
        "deepquantum": {"ms": 10.0, "fastest_ms": 6.0},
        "lightning": {"ms": 1.0, "fastest_ms": 1.0},
    }
    assert tables.lower_bound({"peers": rows}, told) == 3.0
    assert tables.lower_bound({"peers": {**rows, "ketune": {"failed": "stopped"}}}, told) is None


def test_growth_has_a_row_for_each_number_of_wires_and_the_plans_fraction_of_the_gemm_rate(peers: ModuleType) -> None:
    tables = importlib.import_module("peers._tables")

    def cell(n_wires: int, n_samples: int, row: dict) -> dict:
        return {
            "n_wires": n_wires,
            "n_layers": 2,
            "n_samples": n_samples,
            "limits": {"gemm": 100.0},
            "peers": {"ketune": row},
        }

    # 5e7 operations in 2 ms are 25 GFLOP/s, a quarter of the GEMM rate; the cell of 8 wires and 64 samples is missing.
    cells = [
        cell(8, 512, {"ms": 2.0, "plan_operations": 5e7}),
        cell(6, 64, {"ms": 0.5, "plan_operations": 1.0}),
        cell(6, 512, {"failed": "stopped"}),
    ]
    lines = tables.growth_table(cells).splitlines()
    assert lines[0] == "| wires | L = 2, B = 64 | L = 2, B = 512 | plan / GEMM rate, B = 512 |"
    assert lines[2:] == ["| 6 | 0.50 | - | - |", "| 8 | - | 2.00 | 0.25 |"]


def test_the_engine_is_named_by_the_last_commit_that_changed_its_source(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulators = importlib.import_module("simulators")
    monkeypatch.setattr(simulators, "ROOT", tmp_path)

    def git(*words: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(file: str) -> str:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("one")
        git("add", file)
        git("commit", "--quiet", "--message", file)
        return git("rev-parse", "--short", "HEAD")

    git("init", "--quiet")
    engine = commit("src/engine.py")
    assert commit("docs/page.md") != engine
    assert simulators.engine_version(None) == engine
    (tmp_path / "src" / "engine.py").write_text("two")
    assert simulators.engine_version(None) == f"{engine}+"


def test_a_cell_holds_checked_and_timed_calls_of_every_peer(peers: ModuleType, tmp_path: Path) -> None:
    simulators = importlib.import_module("simulators")
    cell = {"kind": "real", "n_wires": 3, "n_layers": 2, "n_samples": 20}
    args = argparse.Namespace(tolerance=1e-5, peers_tolerance=1e-3, turns=2, seconds=5.0, threads=1)
    processes = {module: _process(peers, module, tmp_path / "log") for module in ("ketune", "plain_torch")}
    simulators.measure(cell, processes, args, hopeless={"plain_torch"})
    assert cell["peers"]["plain_torch"] == {"failed": "not tried: failed at a smaller size"}
    simulators.measure(cell, processes, args, set())
    for module, process in processes.items():
        process.stop()
        row = cell["peers"][module]
        assert max(row["errors"].values()) < 1e-5
        assert row["calls"] >= args.turns
        assert 0 < row["fastest_ms"] <= row["ms"] == row["cpu_ms"]
        # readouts (20, 3), gradients to features (20, 8) and to 6 angles, four bytes each
        assert row["results_mib"] * 2**20 == 4 * (60 + 160 + 6)
