"""Threads that wait for compiled code to run, each on another processor than the thread that asks.

Some kernels wake a thread on the processor of the one that woke it, and move it only after milliseconds, which is all
that a call takes: two threads then take turns on one processor. So every helper is told which processor to stay away
from. And where that other processor has something else to do, a helper that has not begun by the time that all is done
is not waited for.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue


class Job:
    """Work that a helper may do, unless it has become unnecessary before.

    Args:
        work: what to do.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work, self._taken = work, threading.Lock()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()

    def do(self) -> None:
        """The helper's side."""
        if not self._taken.acquire(blocking=False):
            return
        failure: BaseException | None = None
        try:
            self._work()
        except BaseException as error:
            failure = error
        self._done.put(failure)

    def finish(self) -> None:
        """Waits for work that has begun, and raises what it raised; work that has not begun is never done."""
        if self._taken.acquire(blocking=False):
            return
        failure = self._done.get()
        if failure is not None:
            raise failure


class Helper(threading.Thread):
    """A thread that does one job after the other."""

    def __init__(self) -> None:
        super().__init__(name="ketune-circuit", daemon=True)
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._processors: frozenset[int] | None = None
        self.start()

    def run(self) -> None:
        """Works until the process ends."""
        while True:
            self._jobs.get().do()

    def begin(self, job: Job, processors: frozenset[int] | None) -> None:
        """Starts a job, on some processors only where they are given."""
        if processors is not None and processors != self._processors and self.native_id is not None:
            with suppress(OSError):  # a sandbox may forbid it; then the kernel decides
                os.sched_setaffinity(self.native_id, processors)
            self._processors = processors
        self._jobs.put(job)


_idle: deque[Helper] = deque()
"""Helpers without work, the last one used at the right end."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # threads do not survive a fork

_current_processor: Callable[[], int] | None = None
if sys.platform == "linux":
    with suppress(OSError, AttributeError):
        _current_processor = ctypes.CDLL(None).sched_getcpu


def _other_processors() -> frozenset[int] | None:
    """The processors that this thread may use, without the one that it is on; None where that is not known."""
    if _current_processor is None:
        return None
    allowed = frozenset(os.sched_getaffinity(0))
    return allowed - {_current_processor()} or allowed


def run_together(mine: Callable[[], object], others: Sequence[Callable[[], object]]) -> None:
    """Does `mine` on this thread and the others on helpers.

    `mine` must leave nothing to do: others that have not begun when it is done are left out. Those that have are waited
    for.
    """
    processors = _other_processors() if others else None
    begun = []
    for work in others:
        try:
            helper = _idle.pop()
        except IndexError:
            helper = Helper()
        job = Job(work)
        helper.begin(job, processors)
        begun.append((helper, job))
    try:
        mine()
    finally:
        for helper, job in begun:
            job.finish()
            _idle.append(helper)
