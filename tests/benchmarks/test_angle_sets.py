"""The benchmark of sets of angles: what it times is right, and what is wrong it does not time."""

import importlib

import pytest
import torch
from tests.benchmarks.test_simulators import BENCHMARKS

from ketune.circuits import _batched_angles as batched


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield importlib.import_module("angle_sets")
    torch.set_num_threads(threads)  # which the benchmark sets


@pytest.mark.parametrize("kind", ["complex", "real"])
def test_the_tools_agree_on_values_and_gradients_before_they_are_timed(bench, kind):
    pytest.importorskip("pennylane")
    for tool in ("ketune", "pennylane"):
        result = bench.measure(tool, kind, 3, 9, "none", 0.0)
        assert result["error"] < 1e-6
        assert result["us"] > 0


@pytest.mark.parametrize("encoding", ["reuploading", "angle", "iqp"])
def test_encodings_agree_with_and_without_compiled_code(bench, encoding):
    assert bench.measure("ketune", "complex", 3, 9, encoding, 0.0)["error"] < 3e-6


def test_wrong_results_are_not_timed(bench, monkeypatch):
    monkeypatch.setattr(bench, "function_of", lambda tool, circuit: lambda angles: angles.sin()[:, : circuit.n_wires])
    monkeypatch.setattr(bench, "TOLERANCE", {"ketune": -1.0})
    compiled = batched.sets_program
    result = bench.measure("ketune", "real", 2, 9, "none", 0.0)
    assert set(result) == {"error"}
    assert batched.sets_program is compiled
    assert bench.figure(result, 1.0).startswith("wrong")
