"""The benchmark of starts: held-out tasks stay held out, cells are run once, and its tables say what the cells say."""

import importlib
import json

import numpy as np
import pytest
import torch
from tests.benchmarks.test_simulators import BENCHMARKS

from ketune.vqc.problems.spin_chains import heisenberg_family


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield importlib.import_module("vqc_starts")
    torch.set_num_threads(threads)


@pytest.fixture
def tables(bench):
    return importlib.import_module("vqc_starts_report")


def small(bench):
    family = heisenberg_family(2, 1)
    validation, test = bench.draw(family, 10_000, 2), bench.draw(family, 20_000, 3)
    learn = (bench.without(family, 8, validation + test),)
    return bench.Setting("Two spins", learn, validation, test, (0.5, 0.1), False, {"flip": 3}, 12, (0.03, 0.1))


def test_a_start_is_run_once_and_reported(bench, tables, tmp_path):
    setting = small(bench)
    for start in ("narrow", "flip"):
        bench.descend(tmp_path, "small", setting, start, 2)
    path = tmp_path / "descend" / "small" / "narrow.json"
    cell = json.loads(path.read_text())
    assert np.array(cell["steps"]["0.1"]).shape == (2, 3)
    assert cell["rate"] in (0.03, 0.1)
    assert np.mean(cell["first"]) > np.mean(cell["last"])
    path.write_text(json.dumps(cell | {"rate": 7.0}))
    bench.descend(tmp_path, "small", setting, "narrow", 2)
    text = tables.report(tmp_path, {"small": setting.title}, tmp_path / "pictures")
    assert "| narrow | 7 |" in text
    assert "training took 96 energies with gradients" in text
    assert (tmp_path / "pictures" / "starts_small.png").stat().st_size > 5000
    assert not list(tmp_path.rglob("*.part"))


def test_tasks_held_out_are_not_learned_from(bench):
    for make in (bench.heisenberg, bench.h2):
        setting = make()
        held_out = {problem.descriptor for problem in setting.validation + setting.test}
        seen = {family(bench.seeded(k)).descriptor for family in setting.learn for k in range(300)}
        assert not held_out & seen
        assert not {p.descriptor for p in setting.validation} & {p.descriptor for p in setting.test}


def test_iterations_to_a_target_count_those_that_never_get_there_as_one_more_than_were_run(bench):
    gap = torch.tensor([[0.5, 0.05], [0.2, 0.04], [0.01, 0.5]])
    assert bench.steps_to(gap, 0.1).tolist() == [2, 0]
    assert bench.steps_to(gap, 0.001).tolist() == [3, 3]


def test_intervals_hold_the_median_and_ratios_are_of_medians(tables):
    fixed, learned = np.array([[40, 50, 60], [45, 50, 55]]), np.array([[10, 10, 10], [10, 10, 10]])
    assert tables.steps_text(learned, 100) == "10 (10 to 10)"
    assert tables.ratio_text(fixed, learned).startswith("5.0 (")
    assert tables.steps_text(np.full((2, 3), 101), 100) == "> 100 (> 100 to > 100)"
