"""Jobs in processes of their own, which die with their parent and whose death the parent survives."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ketune.comparison.events import Event
from ketune.errors import KetuneError

Work = Callable[[Any, Callable[[Event], None]], Any]
"""What a job does in its process: `work(request, report)` returns something that pickle can carry."""


@dataclass(frozen=True)
class Job:
    """One call of `work(request, report)`; what it prints goes to `log`."""

    name: str
    kind: str
    work: Work
    request: Any
    log: Path


@dataclass(frozen=True)
class Done:
    """A job returned `value` after `seconds`."""

    job: Job
    value: Any
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A job raised or died. `error` is one line; `refused` tells a KetuneError (bad input) from anything else."""

    job: Job
    error: str
    seconds: float
    refused: bool = False


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    connection: Connection
    started: float


class Workers:
    """Up to `n` processes at once.

    Processes are forked from a server that has imported the libraries and nothing else (see `warm_up`), so that a job
    starts quickly and its peak memory is its own. With a CUDA device each process starts afresh, because a forked one
    may not be able to use it.

    Args:
        n: Jobs at once.
        threads: CPU threads of each.
        start_method: Of multiprocessing, e.g. "spawn"; None picks as described.
    """

    def __init__(self, n: int, threads: int, start_method: str | None = None) -> None:
        self.n = n
        self.threads = threads
        self._running: list[_Running] = []
        self._context = multiprocessing.get_context(start_method or best_start_method())

    @property
    def n_running(self) -> int:
        return len(self._running)

    @property
    def has_room(self) -> bool:
        return len(self._running) < self.n

    def start(self, job: Job) -> None:
        """Start a job; the caller has looked that there is room."""
        ours, theirs = self._context.Pipe(duplex=True)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        make: Any = self._context.Process  # pyright: ignore[reportAttributeAccessIssue]
        process: BaseProcess = make(target=_main, args=(theirs, job, self.threads), name=job.name)
        with _hidden_main():
            process.start()
        theirs.close()
        self._running.append(_Running(job, process, ours, time.perf_counter()))

    def wait(self, timeout: float | None = None) -> Iterator[Event | Done | Failed]:
        """What the running jobs report next; nothing if `timeout` seconds pass."""
        by_connection = {running.connection: running for running in self._running}
        for connection in wait(list(by_connection), timeout):
            running = by_connection[connection]  # pyright: ignore[reportArgumentType]
            seconds = time.perf_counter() - running.started
            try:
                kind, value = running.connection.recv()
            except (EOFError, OSError):
                self._end(running)
                yield Failed(running.job, _cause_of_death(running.process.exitcode, running.job.log), seconds)
                continue
            if kind == "event":
                yield value
                continue
            self._end(running)
            if kind == "done":
                yield Done(running.job, value, seconds)
            else:
                yield Failed(running.job, value, seconds, refused=kind == "refused")

    def _end(self, running: _Running) -> None:
        running.process.join(timeout=10)
        if running.process.is_alive():
            running.process.kill()
            running.process.join()
        running.connection.close()
        self._running.remove(running)

    def close(self) -> None:
        """Kill what still runs."""
        for running in list(self._running):
            running.process.kill()
            self._end(running)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def warm_up() -> None:
    """Start the fork server, if this machine uses one: it imports in the background while the caller goes on."""
    if best_start_method() == "forkserver":
        multiprocessing.set_forkserver_preload(["ketune.comparison.preload"])
        with _hidden_main():
            forkserver.ensure_running()


def best_start_method() -> str:
    """ "forkserver", or "spawn" where there is a CUDA device or no fork."""
    import torch

    if torch.cuda.is_available() or "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    return "forkserver"


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep multiprocessing from running the user's script once more in each process: our jobs need nothing from it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _main(connection: Connection, job: Job, threads: int) -> None:
    """Run a job in its process and report over `connection`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_die_with_parent, args=(connection,), daemon=True).start()
    _redirect_output(job.log)
    lock = threading.Lock()

    def send(kind: str, value: Any) -> None:
        with lock:
            connection.send((kind, value))

    try:
        _prepare(threads)
        message = ("done", job.work(job.request, lambda event: send("event", event)))
    except KetuneError as error:
        traceback.print_exc()
        message = ("refused", _one_line(error))
    except BaseException as error:  # MemoryError and SystemExit end the cell, not the comparison
        traceback.print_exc()
        message = ("failed", f"{type(error).__name__}: {_one_line(error)}")
    sys.stdout.flush()
    sys.stderr.flush()
    send(*message)
    os._exit(0)  # nothing is left to do, and freeing a model tensor by tensor takes a while


def _die_with_parent(connection: Connection) -> None:
    """Block until the parent's end of the pipe closes, however the parent ended, and end this process at once."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)


def _redirect_output(log: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _prepare(threads: int) -> None:
    """Settle what libraries would choose for a process that has the machine to itself."""
    import torch
    from tqdm import tqdm

    # tqdm's own lock is a semaphore of the system's, which a killed process leaves behind.
    tqdm.set_lock(threading.RLock())

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def _cause_of_death(exitcode: int | None, log: Path) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        if name == "SIGKILL":
            return "the process was killed (SIGKILL), as the system does when memory runs out; try a smaller batch_size"
        return f"the process died of {name}; see {log}"
    return f"the process ended with exit code {exitcode} and without a result; see {log}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no message"
