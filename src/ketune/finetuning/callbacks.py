"""What watches a training run: the clock, the progress report, and the guard against a loss that is no number."""

from __future__ import annotations

import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from transformers import TrainerCallback

WARM_UP_STEPS = 2
"""Steps at the start of a process that do not count in the median: they build caches and pick kernels."""


class OnProgress(Protocol):
    """Called after each step and each evaluation with the latest values known."""

    def __call__(
        self,
        step: int,
        total: int,
        loss: float | None,
        tokens_per_second: float | None,
        eval_loss: float | None,
    ) -> None: ...


class Meter(TrainerCallback):
    """Counts tokens and the seconds spent in training steps, without evaluation, saving and logging.

    Attributes:
        tokens: non-padding tokens seen so far, over all processes and, after a resume, over both runs.
        seconds: time in training steps so far, likewise.
        step_seconds: duration of each step of this and earlier runs that counts in the median.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self.step_seconds: list[float] = []
        self._n_steps_here = 0
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _synchronise()
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _synchronise()
        duration = time.perf_counter() - self._started
        self.seconds += duration
        self._n_steps_here += 1
        if self._n_steps_here > WARM_UP_STEPS:
            self.step_seconds.append(duration)
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last loss counts, wherever logging_steps falls

    def to_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "seconds": self.seconds, "step_seconds": self.step_seconds}

    def restore(self, saved: dict[str, Any]) -> None:
        self.tokens, self.seconds = int(saved["tokens"]), float(saved["seconds"])
        self.step_seconds = [float(duration) for duration in saved["step_seconds"]]


class Progress(TrainerCallback):
    """Hands the latest values to a function of the user."""

    def __init__(self, on_progress: OnProgress, meter: Meter) -> None:
        self._report, self._meter = on_progress, meter
        self._loss: float | None = None
        self._eval_loss: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._send(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        self._loss = logs.get("loss", self._loss)
        self._eval_loss = logs.get("eval_loss", self._eval_loss)
        if "loss" in logs or "eval_loss" in logs:
            self._send(state)

    def _send(self, state: Any) -> None:
        speed = self._meter.tokens / self._meter.seconds if self._meter.seconds else None
        self._report(state.global_step, state.max_steps, self._loss, speed, self._eval_loss)


class StopWhenDiverged(TrainerCallback):
    """Ends a run whose loss is not a finite number; more steps cannot mend the weights."""

    def __init__(self) -> None:
        self.step: int | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.step = state.global_step
            control.should_training_stop = True


def progress_of(progress: bool | OnProgress) -> AbstractContextManager[OnProgress | None]:
    """What `finetune(progress=...)` means: a function, a bar on the terminal (True), or nothing."""
    if callable(progress):
        return nullcontext(progress)
    return _RichBar() if progress and sys.stderr.isatty() else nullcontext(None)


class _RichBar(AbstractContextManager["OnProgress | None"]):
    """A progress bar on standard error."""

    def __enter__(self) -> OnProgress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bars = Bars(*columns, console=Console(stderr=True), transient=True)
        self._bars.start()
        task = self._bars.add_task("", total=None)

        def report(
            step: int, total: int, loss: float | None, tokens_per_second: float | None, eval_loss: float | None
        ) -> None:
            words = [
                f"{name} {value:{form}}"
                for name, value, form in (
                    ("loss", loss, ".4f"),
                    ("eval", eval_loss, ".4f"),
                    ("tokens/s", tokens_per_second, ",.0f"),
                )
                if value is not None
            ]
            self._bars.update(task, completed=step, total=total, description="  ".join(words))

        return report

    def __exit__(self, *error: object) -> None:
        self._bars.stop()


def _synchronise() -> None:
    # Kernels run behind the host's back; without this a step's time would be that of launching it.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
