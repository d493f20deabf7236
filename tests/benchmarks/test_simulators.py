"""The benchmark of simulators: its reference, its processes and its choice of the best peer."""

import importlib
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
