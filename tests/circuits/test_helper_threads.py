"""Threads for compiled code: what has begun is waited for, what has not is left out, and nothing fails silently."""

import threading

import pytest

from ketune.circuits._helper_threads import Job, run_together


def test_what_has_begun_is_waited_for():
    begun, release, log = threading.Event(), threading.Event(), []

    def other():
        begun.set()
        release.wait()
        log.append("other")

    def mine():
        assert begun.wait(10)
        log.append("mine")
        release.set()

    run_together(mine, [other])
    assert log == ["mine", "other"]


def test_several_helpers_work_at_the_same_time():
    all_there = threading.Barrier(4, timeout=10)
    run_together(all_there.wait, [all_there.wait] * 3)
    assert not all_there.broken


def test_a_job_that_has_not_begun_is_never_done():
    log = []
    job = Job(lambda: log.append("done"))
    job.finish()
    job.do()
    assert log == []


def test_a_failure_on_a_helper_is_raised():
    begun = threading.Event()

    def fail():
        begun.set()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_together(lambda: begun.wait(10), [fail])
    run_together(lambda: None, [])  # and nothing is left of it


def test_calls_from_several_threads_do_not_share_helpers():
    barrier, failures = threading.Barrier(4, timeout=10), []

    def call():
        try:
            run_together(barrier.wait, [barrier.wait])
        except threading.BrokenBarrierError as error:
            failures.append(error)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert failures == []
