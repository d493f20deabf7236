"""The benchmark on GPUs, as far as it runs without one: its rows, its bounds, its tables, and what it says."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MACHINE = {
    "device": "some GPU",
    "gemm": {"highest": 50e3, "tf32x3": 100e3, "tf32": 300e3, "bfloat16": 600e3},
    "copy": 2e3,
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(("script", "said"), [("gpu.py", "no CUDA device"), ("limits.py", "no CUDA device")])
def test_without_a_device_the_scripts_say_so_and_end(script: str, said: str) -> None:
    options = ["--device", "cuda"] if script == "limits.py" else []
    done = subprocess.run([sys.executable, BENCHMARKS / script, *options], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_ketune_runs_in_each_form_and_precision_with_and_without_a_graph(gpu: ModuleType) -> None:
    rows = gpu.variants(["highest", "tf32"])
    assert len(rows) == 8
    assert rows["Ketune, Triton, tf32, graph"] == {
        "KETUNE_TRITON": "1",
        "KETUNE_BENCHMARK_PRECISION": "tf32",
        "KETUNE_BENCHMARK_GRAPH": "1",
    }


def test_the_longer_of_traffic_and_operations_is_the_bound(gpu: ModuleType) -> None:
    cell = {"n_wires": 10, "n_samples": 2048}
    traffic_ms = 3 * 4 * 2048 * 1024 / 2e12 * 1e3
    few, many = 1e6, 1e12
    least, bound = gpu.least_milliseconds(cell, few, "highest", MACHINE)
    assert bound == "copy"
    assert least == pytest.approx(traffic_ms)
    least, bound = gpu.least_milliseconds(cell, many, "tf32", MACHINE)
    assert bound == "products"
    assert least == pytest.approx(many / 300e12 * 1e3)


def test_a_cell_is_measured_and_shown(gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the CPU, in processes of its own: all but the device's clock is what runs on a GPU."""
    process = importlib.import_module("peers._process")
    caps = (120.0, 2**36, tmp_path / "log")
    python = Path(sys.executable)
    variables = process.environment(1)
    processes = {
        "Ketune, products, tf32": process.PeerProcess(
            "ketune", python, {**variables, "KETUNE_BENCHMARK_PRECISION": "tf32"}, *caps
        ),
        "plain_torch": process.PeerProcess("plain_torch", python, variables, *caps),
        "lightning_gpu": process.PeerProcess("no_such_peer", python, variables, *caps),
    }
    cell = {"kind": "real", "n_wires": 4, "n_layers": 2, "n_samples": 32, "engine": "?"}
    args = argparse.Namespace(turns=2, peers_tolerance=1e-3)
    try:
        gpu.measure(cell, processes, {"Ketune, products, tf32": "tf32"}, MACHINE, args)
    finally:
        for each in processes.values():
            each.stop()
    ours = cell["peers"]["Ketune, products, tf32"]
    assert 1e-5 < max(ours["errors"].values()) < gpu.TOLERANCES["tf32"]
    assert 0 < ours["share"] < 1
    assert cell["peers"]["plain_torch"]["calls"] >= 2
    assert cell["peers"]["lightning_gpu"]["failed"].startswith("not installed")
    gpu.print_tables({"limits": MACHINE, "cells": {"one": cell}})
    shown = capsys.readouterr().out
    assert "| Ketune, products, tf32 |" in shown
    assert "lightning_gpu: not installed" in shown


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_has_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    measured = importlib.import_module("limits").measure_cuda()
    assert measured["copy"] > 0
    assert measured["gemm"]["tf32"] > measured["gemm"]["highest"] > 0
