from types import SimpleNamespace

import pytest

from ketune.finetuning.callbacks import WARM_UP_STEPS, Meter, StopWhenDiverged, progress_of


def state(step, total=10):
    return SimpleNamespace(global_step=step, max_steps=total)


def control():
    return SimpleNamespace(should_log=False, should_training_stop=False)


def test_the_meter_leaves_the_first_steps_out_of_the_median_but_not_out_of_the_sum():
    meter = Meter()
    for step in range(1, 6):
        meter.on_step_begin(None, state(step), control())
        meter.on_step_end(None, state(step), control())
    assert len(meter.step_seconds) == 5 - WARM_UP_STEPS
    assert meter.seconds > sum(meter.step_seconds)


def test_a_restored_meter_goes_on_counting():
    meter, other = Meter(), Meter()
    meter.tokens, meter.seconds, meter.step_seconds = 7, 1.5, [0.5]
    other.restore(meter.to_dict())
    other.on_step_begin(None, state(1), control())
    other.on_step_end(None, state(1), control())
    assert other.tokens == 7
    assert other.seconds > 1.5
    assert other.step_seconds == [0.5]


def test_the_last_step_is_always_logged():
    meter, last, earlier = Meter(), control(), control()
    for step, flags in ((9, earlier), (10, last)):
        meter.on_step_begin(None, state(step), flags)
        meter.on_step_end(None, state(step), flags)
    assert (earlier.should_log, last.should_log) == (False, True)


@pytest.mark.parametrize(("loss", "stops"), [(1.0, False), (float("nan"), True), (float("inf"), True)])
def test_a_run_stops_when_its_loss_is_no_number(loss, stops):
    guard, flags = StopWhenDiverged(), control()
    guard.on_log(None, state(4), flags, logs={"loss": loss})
    assert flags.should_training_stop is stops
    assert guard.step == (4 if stops else None)


def test_progress_is_a_bar_on_a_terminal_and_nothing_elsewhere(monkeypatch, capsys):
    with progress_of(True) as silent:
        assert silent is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_of(False) as silent:
        assert silent is None
    with progress_of(True) as report:
        report(1, 10, None, None, None)
        report(10, 10, 1.25, 1000.0, 2.5)
    assert "loss 1.2500  eval 2.5000  tokens/s 1,000" in " ".join(capsys.readouterr().err.split(" "))
    with progress_of(print) as report:
        assert report is print
