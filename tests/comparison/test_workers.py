"""Jobs run in processes of their own: what they say, how they fail, and that they do not outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ketune.comparison.events import CellPhase
from ketune.comparison.workers import Done, Failed, Job, Workers, warm_up
from ketune.errors import KetuneError


def echo(request, report):
    report(CellPhase("echo", "working"))
    print("printed by the job")
    return {"pid": os.getpid(), "request": request}


def refuse(request, report):
    raise KetuneError("no such thing;\n  do another")


def crash(request, report):
    raise ZeroDivisionError("boom")


def die(request, report):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(request, report):
    os._exit(3)


def touch_until_killed(request, report):
    while True:
        Path(request).write_text(str(time.time()))
        time.sleep(0.02)


def peak_after_allocating(request, report):
    from ketune.comparison.measurement import peak_resident_bytes

    block = bytearray(request)
    block[::4096] = b"x" * len(block[::4096])
    return peak_resident_bytes()


@pytest.fixture(scope="module")
def workers():
    warm_up()
    with Workers(1, 1) as pool:
        yield pool


def run(workers, work, request, tmp_path):
    workers.start(Job("job", "cell", work, request, tmp_path / "log.txt"))
    messages = []
    while workers.n_running:
        messages += workers.wait()
    return messages


def test_a_job_reports_events_and_then_its_value_from_another_process(workers, tmp_path):
    event, done = run(workers, echo, [1, "two"], tmp_path)
    assert event == CellPhase("echo", "working")
    assert isinstance(done, Done)
    assert done.value["request"] == [1, "two"]
    assert done.value["pid"] != os.getpid()
    assert done.seconds > 0


@pytest.mark.slow
def test_a_job_runs_in_a_fresh_process_where_forking_is_no_option(tmp_path):
    with Workers(1, 1, start_method="spawn") as pool:
        event, done = run(pool, echo, "x", tmp_path)
    assert event == CellPhase("echo", "working")
    assert done.value["pid"] != os.getpid()


def test_what_a_job_prints_goes_to_its_log(workers, tmp_path, capfd):
    run(workers, echo, None, tmp_path)
    assert "printed by the job" in (tmp_path / "log.txt").read_text()
    assert capfd.readouterr().out == ""


def test_bad_input_is_told_from_a_crash_and_both_are_one_line(workers, tmp_path):
    (refused,) = run(workers, refuse, None, tmp_path)
    (crashed,) = run(workers, crash, None, tmp_path)
    assert refused.refused
    assert refused.error == "no such thing; do another"
    assert not crashed.refused
    assert crashed.error == "ZeroDivisionError: boom"
    assert "Traceback" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(("work", "said"), [(die, "killed (SIGKILL)"), (leave, "exit code 3")])
def test_a_process_that_dies_is_a_failed_job(workers, tmp_path, work, said):
    (failed,) = run(workers, work, None, tmp_path)
    assert isinstance(failed, Failed)
    assert said in failed.error


def test_closing_kills_what_still_runs(tmp_path):
    beat = tmp_path / "beat"
    with Workers(1, 1) as pool:
        pool.start(Job("job", "cell", touch_until_killed, str(beat), tmp_path / "log.txt"))
        wait_for(beat.exists)
    assert pool.n_running == 0
    assert_still(beat)


def test_peak_memory_of_a_job_does_not_count_what_its_parent_holds(workers, tmp_path):
    here = bytearray(400_000_000)
    here[::4096] = b"x" * len(here[::4096])
    (small,) = run(workers, peak_after_allocating, 1_000_000, tmp_path)
    (large,) = run(workers, peak_after_allocating, 200_000_000, tmp_path)
    assert 190_000_000 < large.value - small.value < 230_000_000
    assert len(here)


PARENT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_workers import touch_until_killed
from ketune.comparison.workers import Job, Workers
pool = Workers(1, 1)
pool.start(Job("job", "cell", touch_until_killed, {beat!r}, Path({log!r})))
while True:
    list(pool.wait())
"""


@pytest.mark.slow
def test_a_job_dies_with_a_parent_that_was_killed(tmp_path):
    beat, script = tmp_path / "beat", tmp_path / "parent.py"
    tests = str(Path(__file__).parent)
    script.write_text(PARENT.format(tests=tests, beat=str(beat), log=str(tmp_path / "log.txt")))
    environment = os.environ | {"PYTHONPATH": tests}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    try:
        wait_for(beat.exists)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: is_still(beat))


def wait_for(condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def is_still(beat):
    before = beat.read_text()
    time.sleep(0.3)
    return beat.read_text() == before


def assert_still(beat):
    assert is_still(beat)
