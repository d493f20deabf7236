"""Digits, heartbeats and regimes: splits without leaks, scales of training rows, tasks that differ."""

import numpy as np
import pytest
import torch

from ketune.vqc.problems import digits, digits_transfer, ecg, ecg_tasks, logistic_accuracy, regime_tasks, regimes
from ketune.vqc.problems.regimes import INDICATORS, N_STEPS, indicators, prices, windows
from ketune.vqc.problems.splitting import scale_of, stratified_parts

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def whole(data):
    return torch.cat((data.train.x, data.validation.x, data.test.x))


def test_stratified_parts_are_disjoint_complete_and_in_proportion():
    y = torch.tensor([0] * 60 + [1] * 20)
    parts = stratified_parts(y, (0.5, 0.25, 0.25), np.random.default_rng(0))
    assert sorted(torch.cat(parts).tolist()) == list(range(80))
    assert [[int((y[part] == k).sum()) for k in (0, 1)] for part in parts] == [[30, 10], [15, 5], [15, 5]]


def test_scales_come_from_the_rows_they_are_given():
    x = torch.tensor([[0.0, 5.0], [2.0, 5.0], [10.0, 5.0]])
    centre, width = scale_of(x, "columns")
    assert centre.tolist() == [4.0, 5.0]
    assert width.tolist() == [pytest.approx(np.std([0, 2, 10])), 1.0]
    centre, width = scale_of(x, "robust")
    assert centre.tolist() == [2.0, 5.0]
    assert width.tolist() == [pytest.approx(1.4826 * 2), 1.0]
    with pytest.raises(ValueError, match="scale='rows'"):
        scale_of(x, "rows")


def test_digits_are_those_of_scikit_learn():
    data = digits()
    assert sum(map(len, (data.train, data.validation, data.test))) == 1797
    pixels, labels = sklearn_datasets.load_digits(return_X_y=True)
    theirs = np.sort(pixels.sum(1))
    spread = float(pixels.max() / 16)
    assert spread == 1.0
    # One shift and one factor for all pixels: undone by the two extremes, which are 0 and 1.
    x = whole(data).double()
    restored = (x - x.min()) / (x.max() - x.min()) * 16
    np.testing.assert_allclose(np.sort(restored.sum(1).numpy()), theirs, atol=1e-3)
    assert torch.bincount(torch.cat((data.train.y, data.validation.y, data.test.y))).tolist() == (
        np.bincount(labels).tolist()
    )


def test_some_digits_are_drawn_in_balance_and_numbered_in_their_order():
    data = digits(90, (7, 1, 4))
    assert data.n_classes == 3
    assert [len(rows) for rows in (data.train, data.validation, data.test)] == [63, 15, 12]
    assert torch.bincount(data.train.y).tolist() == [21, 21, 21]
    assert float(data.train.x.mean()) == pytest.approx(0, abs=1e-5)
    assert logistic_accuracy(digits(300, (7, 1)), "raw") > 0.95


def test_transfer_tasks_share_no_digit():
    source, target = digits_transfer(100)
    assert (source.name, target.name) == ("digits-246", "digits-13")
    assert sum(map(len, (target.train, target.validation, target.test))) == 100
    with pytest.raises(ValueError, match=r"share \[3\]"):
        digits_transfer(source=(2, 3))


def test_heartbeats_are_standardised_and_of_the_share_that_was_asked_for():
    data = ecg(400, patient=2, ventricular=0.25)
    assert [len(rows) for rows in (data.train, data.validation, data.test)] == [320, 40, 40]
    assert [int(rows.y.sum()) for rows in (data.train, data.validation, data.test)] == [80, 10, 10]
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(256), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.x.std(0, correction=0), torch.ones(256), atol=1e-4, rtol=0)
    assert float(data.test.x.mean(0).abs().max()) > 0.1


def test_ventricular_beats_have_wide_complexes_no_p_wave_and_inverted_t_waves():
    data = ecg(800, ventricular=0.5)
    seconds = torch.linspace(-0.6, 0.6, 256)
    difference = data.train.x[data.train.y == 1].mean(0) - data.train.x[data.train.y == 0].mean(0)
    for time, sign in ((-0.18, -1), (0.28, -1), (0.04, 1), (0.09, -1)):
        assert sign * float(difference[(seconds - time).abs().argmin()]) > 0.3


def test_patients_differ_and_a_model_of_one_does_worse_on_the_last():
    tasks = ecg_tasks(600)
    assert [task.name for task in tasks] == [f"ecg-{patient}" for patient in range(8)]
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression(C=0.01, max_iter=2000)
    linear.fit(tasks[0].train.x.numpy(), tasks[0].train.y.numpy())
    scores = [linear.score(task.test.x.numpy(), task.test.y.numpy()) for task in tasks]
    assert scores[0] > 0.85
    assert logistic_accuracy(tasks[7], "raw") > 0.85
    assert np.mean([logistic_accuracy(task, "raw") for task in tasks[4:]]) > np.mean(scores[4:])


def test_future_prices_change_no_indicator_of_the_past():
    close = prices(60, seed=3)
    changed = close.copy()
    changed[300:] *= np.linspace(1.5, 3, len(close) - 300)
    np.testing.assert_array_equal(indicators(close)[:300], indicators(changed)[:300])
    assert not np.allclose(indicators(close)[300], indicators(changed)[300])
    (before, answers), (after, other) = windows(close), windows(changed)
    assert torch.equal(before[: 300 - N_STEPS + 1], after[: 300 - N_STEPS + 1])
    assert torch.equal(answers[: 300 - N_STEPS], other[: 300 - N_STEPS])


def test_a_window_ends_right_before_the_step_it_asks_about():
    close = prices(60, seed=1)
    x, y = windows(close)
    k = 100
    torch.testing.assert_close(x[k].reshape(N_STEPS, len(INDICATORS)), torch.from_numpy(indicators(close)[k : k + 32]))
    assert int(y[k]) == int(close[k + 32] > close[k + 31])
    assert len(x) == len(y) == len(close) - 32


def test_indicators_have_their_closed_forms_on_a_steady_rise():
    close = 100 * 1.01 ** np.arange(400)
    last = indicators(close)[-1]
    rate = np.log(1.01)
    assert last[0] == pytest.approx(rate)
    assert last[1] == pytest.approx(rate)
    assert last[2] == pytest.approx(0, abs=1e-12)
    assert last[3] == pytest.approx(1)  # nothing was ever lost
    # An exponential average of weight w of a geometric series lags behind it by the factor w q / (q - 1 + w).
    weight, q = 2 / 11, 1.01
    assert last[5] == pytest.approx((q - 1 + weight) / (weight * q) - 1, rel=1e-6)
    recent = close[-20:]
    assert last[6] == pytest.approx((close[-1] - recent.mean()) / recent.std())


def test_parts_of_a_regime_follow_each_other_with_gaps_and_are_scaled_by_the_first():
    n_rows, regime, seed = 400, 3, 5
    data = regimes(n_rows, regime, seed)
    assert [len(rows) for rows in (data.train, data.validation, data.test)] == [280 - 32, 60 - 32, 60]
    x, y = windows(prices(n_rows + N_STEPS, seed))
    first = 64 + regime * (n_rows + N_STEPS)
    train = x[first : first + 248]
    centre = train.median(0).values
    width = 1.4826 * (train - centre).abs().median(0).values
    expected = ((x[first + 340 : first + 400] - centre) / width).tanh().float()
    torch.testing.assert_close(data.test.x, expected)
    assert torch.equal(data.test.y, y[first + 340 : first + 400])


def test_directions_are_predictable_as_far_as_returns_are_correlated():
    # The sign of the last return is right with probability 1/2 + arcsin(phi) / pi when phi is positive.
    numbers = np.random.default_rng(1)
    phi = numbers.uniform(-0.10, 0.55, 8)
    chosen = int(phi.argmax())
    data = regimes(3000, chosen, seed=1)
    scores = []
    for rows in (data.train, data.test):
        rises = rows.x.reshape(-1, N_STEPS, 8)[:, -1, 0] > 0
        scores.append(float((rises.long() == rows.y).float().mean()))
    assert scores[0] == pytest.approx(0.5 + np.arcsin(phi[chosen]) / np.pi, abs=0.05)


def test_the_regimes_of_a_seed_are_parts_of_one_series():
    tasks = regime_tasks(300, seed=2)
    assert [task.name for task in tasks] == [f"regimes-{regime}" for regime in range(8)]
    assert torch.equal(tasks[5].test.x, regimes(300, 5, seed=2).test.x)
    assert not torch.equal(tasks[5].test.x, tasks[4].test.x)


def test_wrong_rows_are_refused():
    with pytest.raises(ValueError, match=r"classes=\(1, 1\)"):
        digits(classes=(1, 1))
    with pytest.raises(ValueError, match="n_rows=5000"):
        digits(5000, (1, 3))
    with pytest.raises(ValueError, match="patient=8"):
        ecg(patient=8)
    with pytest.raises(ValueError, match="n_rows=20"):
        ecg(20)
    with pytest.raises(ValueError, match="regime=-1"):
        regimes(regime=-1)
    with pytest.raises(ValueError, match="n_rows=100"):
        regimes(100)
