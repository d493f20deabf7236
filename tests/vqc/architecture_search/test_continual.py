"""A search over tasks: its folder, and going on after it was cut off."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from ketune.vqc.architecture_search import (
    ClassifierTraining,
    ContinualSearch,
    Reinforce,
    SearchError,
    SearchSettings,
    SearchSpace,
    encode,
    train_final,
)
from ketune.vqc.architecture_search.settings import STRATEGIES, make_strategy
from ketune.vqc.architecture_search.strategies import derived_seed
from ketune.vqc.circuit_file import load_circuit_file

from .tasks import task

SETTINGS = SearchSettings(
    n_evaluations=7,
    space=SearchSpace(depths=(1, 2), entanglers=("ring", "linear")),
    training=ClassifierTraining(epochs=1, batch_size=48),
    final_epochs=2,
    max_rank=1,
)


def tasks(n=3):
    return [task(f"task-{k}", seed=k, n=48, n_features=8) for k in range(n)]


class Killed(Exception):
    pass


def killed_after(n):
    """A progress that ends the search at its n-th call."""
    calls = []

    def progress(*event):
        calls.append(event)
        if len(calls) == n:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def unbroken_searches():
    """Each strategy's search without a break, and what it found."""
    searches = {name: ContinualSearch(tasks(), name, SETTINGS) for name in ("reinforce", "random")}
    return {name: (search, search.run()) for name, search in searches.items()}


@pytest.mark.parametrize("strategy", ["reinforce", "random"])
@pytest.mark.parametrize("calls", [1, 5, 8, 9, 14])
def test_a_killed_search_goes_on_and_gives_what_an_unbroken_one_gives(tmp_path, unbroken_searches, strategy, calls):
    unbroken, expected = unbroken_searches[strategy]
    with pytest.raises(Killed):
        ContinualSearch(tasks(), strategy, SETTINGS, tmp_path / "killed").run(killed_after(calls))
    stood = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed" / "scores").rglob("*.json")}
    again = ContinualSearch(tasks(), strategy, SETTINGS, tmp_path / "killed")
    found = again.run()
    assert found == expected
    ours, theirs = again.strategy.tensors(), unbroken.strategy.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    for file, written in stood.items():
        assert file.stat().st_mtime_ns == written  # nothing that stood was trained again
    assert not list(tmp_path.rglob("*.part"))


def test_a_finished_search_is_read_and_not_run(tmp_path, monkeypatch):
    from ketune.vqc.architecture_search import scoring

    expected = ContinualSearch(tasks(), "reinforce", SETTINGS, tmp_path).run()
    monkeypatch.setattr(scoring, "train_classifier", None)
    events = []
    assert ContinualSearch(tasks(), "reinforce", SETTINGS, tmp_path).run(lambda *e: events.append(e)) == expected
    assert events == [(f"task-{k}", 7, 7) for k in range(3)]


def test_the_folder_holds_circuits_results_and_what_was_learned(tmp_path):
    results = ContinualSearch(tasks(2), "reinforce", SETTINGS, tmp_path).run()
    for result in results:
        file = load_circuit_file(tmp_path / "reinforce" / f"{result.task}.circuit.json")
        assert file.architecture == result.architecture == result.search.best.architecture
        assert file.n_wires == result.n_wires == 3
        assert file.about["reward"] == result.search.best.score.reward
        written = json.loads((tmp_path / "reinforce" / f"{result.task}.json").read_text())
        assert written["best"]["architecture"] == result.architecture.text
        assert any(
            name.startswith("fisher/") for name in load_file(tmp_path / "reinforce" / f"{result.task}.safetensors")
        )
        scored = {path.stem for path in (tmp_path / "scores" / result.task).iterdir()}
        assert scored == {e.architecture.text for e in result.search.evaluations}


def test_strategies_in_one_folder_share_their_scores(tmp_path):
    every = ContinualSearch(tasks(1), "exhaustive", SETTINGS, tmp_path).run()[0]
    assert len(every.search.evaluations) == 6
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "scores").rglob("*.json")}
    for name in ("random", "random-by-depth", "reinforce-alone"):
        result = ContinualSearch(tasks(1), name, SETTINGS, tmp_path).run()[0]
        assert result.search.best.score.reward <= every.search.best.score.reward
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "scores").rglob("*.json")} == before


def test_without_a_folder_the_results_are_the_same(tmp_path):
    kept = ContinualSearch(tasks(2), "reinforce", SETTINGS, tmp_path).run()
    assert ContinualSearch(tasks(2), "reinforce", SETTINGS).run() == kept


def test_the_policy_is_carried_from_task_to_task_only_where_the_name_says_so():
    found = {}
    for name in ("reinforce", "reinforce-alone"):
        search = ContinualSearch(tasks(2), name, SETTINGS)
        found[name] = search.run()
        assert isinstance(search.strategy, Reinforce)
        assert (search.strategy.penalty is not None) == (name == "reinforce")
    first, alone = found["reinforce"], found["reinforce-alone"]
    assert [e.architecture for e in first[0].search.evaluations] == [
        e.architecture for e in alone[0].search.evaluations
    ]


def test_the_final_model_starts_from_another_seed_than_the_search(tmp_path):
    search = ContinualSearch(tasks(1), "random", SETTINGS)
    result = search.run()[0]
    circuit = result.architecture.circuit(3)
    assert result.final.n_angles == circuit.n_angles
    assert 0 < result.fidelity < 1
    # The same by hand, from its own seed; from the search's seed it is another model.
    data = encode(tasks(1)[0], SETTINGS.max_rank).data
    training = replace(SETTINGS.training, epochs=SETTINGS.final_epochs)
    losses = [
        train_final(data, circuit, training, derived_seed(SETTINGS.seed, 0, use))[0].loss for use in ("final", "search")
    ]
    assert result.final.loss == losses[0]
    assert losses[0] != losses[1]


def test_another_search_in_the_same_folder_is_refused_with_the_difference(tmp_path):
    ContinualSearch(tasks(1), "random", SETTINGS, tmp_path).run()
    other = SearchSettings(**{**vars(SETTINGS), "n_evaluations": 5})
    with pytest.raises(SearchError, match="n_evaluations = 7 and not 5"):
        ContinualSearch(tasks(1), "random", other, tmp_path).run()
    changed = [task("task-0", seed=9, n=48, n_features=8)]
    with pytest.raises(SearchError, match=r"tasks\.task-0"):
        ContinualSearch(changed, "random", SETTINGS, tmp_path).run()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("search.json", "{"),
        ("random/task-0.json", "[]"),
        ("random/task-0.json", '{"task": 3}'),
        ("random/task-0.safetensors", "x"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, content):
    ContinualSearch(tasks(1), "random", SETTINGS, tmp_path).run()
    (tmp_path / file).write_text(content)
    with pytest.raises(SearchError):
        ContinualSearch(tasks(1), "random", SETTINGS, tmp_path).run()


def test_a_damaged_score_is_named(tmp_path):
    ContinualSearch(tasks(1), "random", SETTINGS, tmp_path).run()
    next((tmp_path / "scores" / "task-0").iterdir()).write_text('{"points": 3}')
    with pytest.raises(SearchError, match="holds no score"):
        ContinualSearch(tasks(1), "reinforce", SETTINGS, tmp_path).run()


def test_impossible_searches_are_refused():
    wide = task("task-1", n=8, n_features=4)
    for make, words in (
        (lambda: ContinualSearch([]), "at least one"),
        (lambda: ContinualSearch([tasks(1)[0]] * 2), "a name of its own"),
        (lambda: ContinualSearch([tasks(1)[0], wide]), "one width"),
        (lambda: ContinualSearch([task("../up", n=8)]), "becomes a file's"),
        (lambda: ContinualSearch(tasks(1), "genetic"), "choose one of reinforce"),
        (lambda: ContinualSearch(tasks(1), "random", SearchSettings(n_wires=2)), "2 wires hold 4"),
        (lambda: SearchSettings(n_evaluations=0), "n_evaluations=0"),
        (lambda: SearchSettings(max_rank=0), "max_rank=0"),
    ):
        with pytest.raises(SearchError, match=words):
            make()
    assert [make_strategy(name).name for name in STRATEGIES] == list(STRATEGIES)
