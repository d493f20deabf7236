"""Several strategies on the same tasks: the table, the picture, the circuit."""

import json

import pytest

from ketune.vqc.architecture_search import ClassifierTraining, ContinualSearch, SearchError, SearchSettings, SearchSpace
from ketune.vqc.architecture_search.side_by_side import search_side_by_side
from ketune.vqc.circuit_file import load_circuit_file

from .tasks import task

SETTINGS = SearchSettings(
    n_evaluations=4,
    space=SearchSpace(depths=(1, 2), entanglers=("ring", "linear")),
    training=ClassifierTraining(epochs=1),
    final_epochs=1,
    max_rank=None,
)


def tasks():
    return [task(f"task-{k}", seed=k, n=40, n_features=8) for k in range(2)]


def test_each_strategy_and_task_has_a_row_and_the_folder_has_it_all(tmp_path):
    steps = []
    found = search_side_by_side(
        tasks(), ["reinforce", "random", "exhaustive"], SETTINGS, tmp_path, lambda *step: steps.append(step)
    )
    assert [(row["strategy"], row["task"]) for row in found.rows] == [
        (name, f"task-{k}") for name in ("reinforce", "random", "exhaustive") for k in range(2)
    ]
    assert steps[0] == ("reinforce", "task-0", 0, 4)
    assert steps[-1] == ("exhaustive", "task-1", 6, 6)
    best = {row["task"]: row["reward"] for row in found.rows if row["strategy"] == "exhaustive"}
    for row in found.rows:
        assert row["reward"] == max(row["best_rewards"]) <= best[row["task"]]
    assert json.loads((tmp_path / "results.json").read_text())["results"] == found.rows
    assert (tmp_path / "best_rewards.png").read_bytes().startswith(b"\x89PNG")
    file = load_circuit_file(tmp_path / "circuit.json")
    assert file.architecture == found.chosen.architecture == found.results["reinforce"][1].architecture
    alone = ContinualSearch(tasks(), "random", SETTINGS).run()
    assert list(found.results["random"]) == alone


def test_the_chosen_circuit_is_drawn_where_qiskit_is_there(tmp_path):
    pytest.importorskip("qiskit")
    found = search_side_by_side(tasks()[:1], ["random"], SETTINGS, tmp_path)
    assert found.drawing is not None
    assert found.drawing.count("Rx") == found.chosen.architecture.depth * 3


def test_no_strategy_a_wrong_one_or_the_same_twice_are_refused_before_anything_runs(tmp_path):
    for names in ([], ["random", "random"], ["random", "genetic"]):
        with pytest.raises(SearchError, match="random"):
            search_side_by_side(tasks(), names, SETTINGS, tmp_path / "new")
    assert not (tmp_path / "new").exists()
