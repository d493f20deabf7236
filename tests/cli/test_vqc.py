"""`ketune vqc`: both kinds of problems, what is resumed, what is refused."""

import json

import pytest
import torch
from tests.cli.conftest import call

from ketune.vqc.energy_runs import EnergyRuns


def heisenberg(folder, *more):
    quick = ["--set", "n_wires=2", "--set", "n_layers=1", "--steps", "12", "--seeds", "2", "--out", str(folder)]
    return call("vqc", "heisenberg", *quick, *more)


def test_energies_are_minimised_from_every_start_and_end_with_their_place(tmp_path):
    result = heisenberg(tmp_path / "runs", "--init", "uniform,zeros,q_maml", "--meta-steps", "3", "--variance", "2,3")
    assert result.code == 0, result.err
    assert f"runs: {tmp_path / 'runs' / 'cells'}" in result.out
    assert len(list((tmp_path / "runs" / "cells").iterdir())) == 6
    for name in ("energies.png", "variances.png"):
        assert (tmp_path / "runs" / name).read_bytes().startswith(b"\x89PNG")
    cell = json.loads((tmp_path / "runs" / "cells" / "q_maml-seed0.json").read_text())
    assert len(cell["energies"]) == 13
    assert cell["meta_gradients"] > 0
    assert cell["energies"][-1] >= cell["ground_energy"] - 1e-9


def test_what_stands_is_not_run_again_and_other_settings_are_refused(tmp_path):
    first = heisenberg(tmp_path / "runs", "--init", "uniform")
    assert first.code == 0, first.err
    file = tmp_path / "runs" / "cells" / "uniform-seed0.json"
    before = file.stat().st_mtime_ns
    (tmp_path / "runs" / "cells" / "uniform-seed1.json").unlink()
    again = heisenberg(tmp_path / "runs", "--init", "uniform,pi", "--json")
    assert again.code == 0, again.err
    assert file.stat().st_mtime_ns == before
    assert [row["start"] for row in again.json["starts"]] == ["uniform", "pi"]
    other = heisenberg(tmp_path / "runs", "--lr", "0.3")
    assert other.code == 2
    assert "lr=0.05" in other.err


@pytest.mark.parametrize(("problem", "options"), [("h2", {"length": 0.6}), ("lih", {"n_wires": 6}), ("hubbard", {})])
def test_a_start_is_not_trained_on_the_problem_it_is_tried_on(problem, options):
    runs = EnergyRuns(problem, options, ("flip",))
    own, draw = runs.make_problem(), runs.make_family()
    generator = torch.Generator().manual_seed(0)
    drawn = [draw(generator) for _ in range(30)]
    assert {each.n_wires for each in drawn} == {own.n_wires}
    assert all(each.descriptor != own.descriptor for each in drawn)
    assert {len(each.descriptor) for each in drawn} == {len(own.descriptor)}


def test_classes_are_told_apart_behind_every_encoder(tmp_path):
    result = call(
        *("vqc", "digits", "--encoder", "tt,pca", "--block", "circuit,none", "--wires", "4", "--layers", "2"),
        *("--epochs", "6", "--lr", "0.05", "--seeds", "1", "--set", "classes=[0,1]", "--out", str(tmp_path)),
    )
    assert result.code == 0, result.err
    assert "tt + circuit" in result.out
    assert (tmp_path / "accuracies.png").read_bytes().startswith(b"\x89PNG")
    cell = json.loads((tmp_path / "cells" / "tt-circuit-seed0.json").read_text())
    assert cell["n_quantum"] == 24
    assert len(cell["test"]) == 6
    assert cell["test"][-1] > 0.8  # chance is a half
    assert cell["train_loss"][-1] < cell["train_loss"][0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["heisenburg"], "did you mean 'heisenberg'"),
        ([], "name a problem"),
        (["h2", "--encoder", "tt"], "--encoder"),
        (["digits", "--init", "zeros"], "--init"),
        (["digits", "--encoder", "ttn"], "of tt, dense, pca"),
        (["heisenberg", "--init", "warm"], "start 'warm'"),
        (["transverse-ising", "--init", "flip"], "no family"),
        (["heisenberg", "--optimizer", "adams"], "did you mean 'adam'"),
        (["heisenberg", "--set", "wires=3"], "no option 'wires'"),
        (["h2", "--variance", "4"], "n_wires"),
        (["digits", "--ansatz", "rings"], "choose one of"),
    ],
)
def test_bad_input_is_answered_in_one_line(tmp_path, arguments, words):
    result = call("vqc", *arguments, *(["--steps", "1"] if "--variance" in arguments else []), "--out", tmp_path)
    assert result.code == 2
    assert words in result.err
    assert len(result.err.strip().splitlines()) <= 12


def test_problems_and_their_options_are_listed():
    result = call("vqc", "--list")
    assert "quantum-dots" in result.out
    assert "n_wires=6" in result.out
