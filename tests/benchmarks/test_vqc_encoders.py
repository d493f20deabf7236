"""The benchmark of encoders: comparable arms, tables that say what the cells say, going on where it stopped."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from ketune.vqc.problems.digits import digits

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "vqc_encoders.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("vqc_encoders", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_arms_of_the_hypernetwork_share_their_front_and_its_start(benchmark):
    data = digits(100, (1, 3), 0)
    circuit = benchmark.rxryrz_ring(4, 1)
    models = {kind: benchmark.hyper_model(kind, data, circuit, seed=3) for kind in benchmark.HYPER}
    fronts = [models[kind].encoder.state_dict() for kind in benchmark.HYPER if kind != "train_only"]
    assert all(torch.equal(a, b) for front in fronts[1:] for a, b in zip(fronts[0].values(), front.values()))
    emits, control = models["conditioned"].hypernet.source, models["train_only"].train_part
    pairs = zip(emits.state_dict().values(), control.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_tables_hold_means_and_intervals_of_the_last_epochs(benchmark, tmp_path):
    for seed, test in enumerate((0.8, 0.9, 0.7)):
        cell = {"test": test, "quantum": 48, "classical": 101}
        (tmp_path / f"digits-tt-new-circuit-{seed}.json").write_text(json.dumps(cell))
    text = benchmark.report(tmp_path)
    # Half a 95 % interval of three values a tenth apart: 4.30 x 10 / sqrt(3).
    assert "| tt | new | circuit | 48 | 101 | 80.0 ± 24.8 (3) | – |" in text


def test_cells_that_stand_are_not_run_again(benchmark, tmp_path, monkeypatch, capsys):
    ran = []
    cells = [
        (f"digits-tt-new-circuit-{k}", lambda k=k: ran.append(k) or {"test": 0.5, "quantum": 1, "classical": 2})
        for k in range(3)
    ]
    monkeypatch.setattr(benchmark, "digits_cells", lambda seed: cells if seed == 0 else [])
    (tmp_path / "digits-tt-new-circuit-1.json").write_text(json.dumps({"test": 0.5, "quantum": 1, "classical": 2}))
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["vqc_encoders.py", "--folder", str(tmp_path), "--only", "digits"])
    benchmark.main()
    torch.set_num_threads(threads)
    assert ran == [0, 2]
    assert "50.0 ± 0.0 (3)" in capsys.readouterr().out
