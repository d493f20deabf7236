"""Learning rates are chosen on the validation split, and trials are not repeated."""

from __future__ import annotations

import json
import math

import pytest

from ketune.comparison.experiments import Experiment
from ketune.comparison.tuning import choose, next_rate, open_trials, read_trials, save_trial, trial_file, trial_name


def trial(rate, loss):
    return {"learning_rate": rate, "eval_loss": loss}


def test_the_rate_with_the_lowest_validation_loss_is_chosen():
    assert choose([trial(1e-3, 2.0), trial(5e-3, 1.5), trial(2e-2, 1.7)]) == (5e-3, None)


def test_the_lower_of_two_equally_good_rates_is_chosen():
    assert choose([trial(1e-4, 2.0), trial(5e-3, 1.5), trial(1e-2, 1.5), trial(1.0, 2.0)]) == (5e-3, None)


@pytest.mark.parametrize(("losses", "side"), [([1.0, 2.0, 3.0], "lowest"), ([3.0, 2.0, 1.0], "highest")])
def test_a_best_rate_at_the_edge_of_the_grid_is_said_so(losses, side):
    rate, note = choose([trial(rate, loss) for rate, loss in zip([1e-3, 5e-3, 2e-2], losses, strict=True)])
    assert rate in (1e-3, 2e-2)
    assert side in note


def test_a_diverged_trial_is_never_chosen():
    assert choose([trial(1e-3, None), trial(5e-3, 9.0), trial(2e-2, None)]) == (5e-3, None)
    assert choose([trial(1e-3, None), trial(5e-3, None)]) is None


def test_only_trials_without_a_file_are_open(tmp_path):
    experiment = Experiment("lora", "default", 5e-3, learning_rates=(1e-3, 5e-3, 2e-2))
    fixed = Experiment("full", "default", 1e-4)
    assert open_trials(tmp_path, [experiment, fixed], 3) == [(experiment, rate) for rate in (1e-3, 5e-3, 2e-2)]
    save_trial(tmp_path, experiment, 5e-3, trial(5e-3, 1.25))
    assert open_trials(tmp_path, [experiment, fixed], 3) == [(experiment, 1e-3), (experiment, 2e-2)]
    assert read_trials(tmp_path, experiment) == [trial(5e-3, 1.25)]


def test_a_diverged_trial_is_written_as_null_and_not_run_again(tmp_path):
    experiment = Experiment("lora", "default", 5e-3, learning_rates=(5e-3,))
    save_trial(tmp_path, experiment, 5e-3, trial(5e-3, math.nan))
    assert json.loads(trial_file(tmp_path, experiment, 5e-3).read_text())["eval_loss"] is None
    assert not open_trials(tmp_path, [experiment], 1)


def test_further_trials_follow_the_best_rate_and_every_method_has_as_many(tmp_path):
    """On losses that are parabolas in the logarithm of the rate, six trials come near the best, wherever it lies."""
    for name, best in (("a", 5e-3), ("b", 2e-4), ("c", 0.4)):
        experiment = Experiment(name, "default", 5e-3, learning_rates=(1e-3, 5e-3, 2e-2))
        n = 0
        while trials := open_trials(tmp_path, [experiment], 6):
            for _, rate in trials:
                save_trial(tmp_path, experiment, rate, trial(rate, math.log(rate / best) ** 2))
                n += 1
        assert n == len(read_trials(tmp_path, experiment)) == 6
        rate, _ = choose(read_trials(tmp_path, experiment))
        assert max(rate / best, best / rate) < 1.8


def test_the_next_rate_goes_on_beyond_the_ends_and_halves_the_better_side():
    assert next_rate([trial(1e-3, 1.0), trial(3e-3, 2.0), trial(9e-3, 3.0)]) == pytest.approx(3.33e-4)
    assert next_rate([trial(1e-3, 3.0), trial(3e-3, 2.0), trial(9e-3, 1.0)]) == pytest.approx(2.7e-2)
    assert next_rate([trial(1e-3, 3.0), trial(4e-3, 1.0), trial(1.6e-2, 2.0)]) == pytest.approx(8e-3)
    assert next_rate([trial(1e-3, None), trial(4e-3, 1.0), trial(5e-3, 1.1)]) == pytest.approx(2e-3)
    assert next_rate([trial(1e-3, None), trial(4e-3, None)]) == pytest.approx(3.33e-4)


def test_trials_of_different_rates_have_different_names():
    experiment = Experiment("lora", "default", 5e-3)
    assert trial_name(experiment, 5e-3) == "lora--default--lr0.005"
    assert len({trial_name(experiment, rate) for rate in (1e-3, 1.5e-3, 1e-2, 0.1, 1.0)}) == 5
