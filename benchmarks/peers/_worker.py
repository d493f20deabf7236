"""One peer in a process of its own, driven by lines of JSON: `python -m peers._worker MODULE` in the folder above.

Commands come on standard input and each is answered by one line on standard output:

    {"do": "hello"}                                   -> name, note, gradients, versions
    {"do": "prepare", "file": "case.npz", ...}        -> errors against the reference, first call's time, peak memory
    {"do": "turn", "seconds": 0.05}                   -> CPU and wall times of the calls of one turn
    {"do": "drop"}                                    -> the case is forgotten

An answer {"failed": "..."} says why there is none. Whatever a simulator prints goes to standard error.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import sys
import time
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from peers import DEVICE


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")


def _forget_peak() -> int | None:
    """Resets the high-water mark of resident memory and returns what is resident, or None where it cannot be read."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # pages that malloc keeps would hide the peak
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS:")
    except OSError:
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


class Worker:
    """The peer and the case it is at."""

    def __init__(self, module: str) -> None:
        self.peer = importlib.import_module(f"peers.{module}")
        self.call: Any = None
        self.case: tuple[Any, ...] = ()

    def hello(self) -> dict[str, Any]:
        return {
            "name": self.peer.NAME,
            "note": self.peer.NOTE,
            "gradients": list(self.peer.GRADIENTS),
            "versions": {package: _version(package) for package in self.peer.PACKAGES},
        }

    @property
    def on_torch(self) -> Any:
        """What torch measures on a CUDA device, for a simulator that runs on torch there; else None."""
        return sys.modules.get("peers._torch") if DEVICE == "cuda" else None

    def timed(self) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        self.call(*self.case)
        return time.process_time() - cpu, time.perf_counter() - wall

    def prepare(self, file: str, n_wires: int, n_layers: int, kind: str) -> dict[str, Any]:
        """Checks values and gradients, then measures memory.

        The check runs at the full batch, so that nothing is compiled twice, on a batch that repeats a few samples,
        whose reference is quick: the file holds `x_few`, `weights_few` and the reference of these.
        """
        data = np.load(file)
        n_samples = len(data["x"])
        few = len(data["x_few"])
        repeats = np.arange(n_samples) % few
        build, place = self.peer.build, self.peer.place
        self.call = build(n_wires, n_layers, kind)
        few_repeated = (data["x_few"][repeats], data["angles"], data["weights_few"][repeats])
        start = time.perf_counter()
        out, dx, dangles = self.call(*(place(array) for array in few_repeated))
        first = time.perf_counter() - start
        del few_repeated
        counts = np.bincount(repeats, minlength=few).astype(float)
        expected = {
            "out": data["out"][repeats],
            "x": data["dx"][repeats],
            "angles": np.tensordot(counts, data["dangles"], 1),
        }
        errors = {}
        for key, got in (("out", out), ("x", dx), ("angles", dangles)):
            if key in ("out", *self.peer.GRADIENTS):
                got = np.asarray(got.cpu() if hasattr(got, "cpu") else got, np.float64)
                errors[key] = float(np.linalg.norm(got - expected[key]) / np.linalg.norm(expected[key]))
        del out, dx, dangles, expected
        self.case = tuple(place(data[name]) for name in ("x", "angles", "weights"))
        data.close()
        if DEVICE == "cuda":
            peak = self.on_torch.device_peak_bytes(self._call) if self.on_torch else None
            cpu_time, wall_time = self.timed()
        else:
            before = _forget_peak()
            cpu_time, wall_time = self.timed()
            peak = None if before is None else max(0, _resident("VmHWM:") - before)
        answer = {"errors": errors, "first_s": first, "cpu": cpu_time, "wall": wall_time}
        operations = getattr(self.peer, "operations", None)
        if operations is not None:
            answer["operations"] = operations(n_wires, n_layers, kind, n_samples)
        return {**answer, "peak_bytes": peak}

    def turn(self, seconds: float) -> dict[str, Any]:
        """Calls until the time is over: one at least, twenty at most. The wall time of a GPU is by its own clock."""
        if self.on_torch:
            return {"cpu": [], "wall": [ms / 1e3 for ms in self.on_torch.device_milliseconds(self._call, 20)]}
        times = [self.timed()]
        end = time.perf_counter() + seconds - times[0][1]
        while len(times) < 20 and time.perf_counter() < end:
            times.append(self.timed())
        return {"cpu": [cpu for cpu, _ in times], "wall": [wall for _, wall in times]}

    def _call(self) -> Any:
        return self.call(*self.case)

    def drop(self) -> dict[str, Any]:
        self.call, self.case = None, ()
        _forget_peak()
        return {}


def main() -> None:
    """Answers commands until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    worker: Worker | None = None
    failed = ""
    try:
        worker = Worker(sys.argv[1])
    except ImportError as error:
        failed = f"not installed ({error})"
    except Exception as error:
        failed = f"import: {type(error).__name__}: {error}"
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {"failed": failed}
        if worker is not None:
            try:
                answer = getattr(worker, command.pop("do"))(**command)
            except Exception as error:
                answer = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
                worker.call, worker.case = None, ()
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
