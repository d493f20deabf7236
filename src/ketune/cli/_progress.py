"""Progress on a terminal as bars with loss, speed and time left; elsewhere as one line per thing that is done."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from ketune.cli import _output as output

if TYPE_CHECKING:
    from ketune.comparison.events import Event
    from ketune.finetuning.callbacks import OnProgress
    from ketune.finetuning.quantizing_saved import OnPhase


def readable(name: str) -> str:
    """ "qaa--control-frozen--seed0" as "qaa control-frozen seed 0"; "default" goes without saying."""
    if name == "base":
        return "untouched base model"
    parts = [part for part in name.split("--") if part != "default"]
    return " ".join(re.sub(r"^(seed|lr)(?=\d)", r"\1 ", part) for part in parts)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


class _Left(ProgressColumn):
    """The time left, by the mean speed so far."""

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("left")
        return Text("" if seconds is None else f"{output.duration(seconds)} left", style="cyan")


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[words]}", markup=False, style="dim"),
        _Left(),
        console=console,
        transient=True,
    )


def _words(loss: float | None, tokens_per_second: float | None, eval_loss: float | None = None) -> str:
    words = []
    if loss is not None:
        words.append(f"loss {loss:.3f}")
    if eval_loss is not None:
        words.append(f"validation {eval_loss:.3f}")
    if tokens_per_second is not None:
        words.append(f"{tokens_per_second:,.0f} tokens/s")
    return "  ".join(words)


def _left(done: float, total: float, seconds: float) -> float | None:
    """Seconds that the rest takes if it goes on as it went."""
    return None if done <= 0 or seconds < 1 else (total - done) * seconds / done


# ------------------------------------------------------------------------------------------------------ comparison


@contextlib.contextmanager
def comparison_progress(to_stderr: bool = False) -> Iterator[Callable[[Event], None]]:
    """What `run_comparison` reports to.

    Args:
        to_stderr: lines go to standard error, because standard output is for JSON.
    """
    if output.is_terminal():
        with _bars(output.messages()) as bars:
            yield _ComparisonView(bars.console, bars)
    else:
        yield _ComparisonView(output.messages() if to_stderr else output.results(), None)


class _ComparisonView:
    """Follows the events of a comparison: a line when something is done, and bars for what runs."""

    def __init__(self, console: Console, bars: Progress | None) -> None:
        self.console, self.bars = console, bars
        self.started = time.monotonic()
        self.tasks: dict[str, Any] = {}
        self.fractions: dict[str, float] = {}  # of the jobs that run
        self.n_jobs = self.n_done = self.n_before = 0
        self.overall: Any = None

    def __call__(self, event: Event) -> None:
        handle = getattr(self, f"on_{type(event).__name__}", None)
        if handle is not None:
            handle(event)
        self._update_overall()

    def line(self, text: str, style: str | None = None) -> None:
        output.say(text, to=self.console, style=style)

    def on_Planned(self, event: Any) -> None:
        self.n_jobs, self.n_before = len(event.cells) - event.n_finished, event.n_finished
        arms = {cell.rsplit("--", 1)[0] for cell in event.cells}
        seeds = {cell.rsplit("--", 1)[1] for cell in event.cells}
        parts = [_count(len(arms), "experiment"), _count(len(seeds), "seed")]
        text = f"{_count(len(event.cells), 'cell')}: {', '.join(parts)}"
        if event.budget is not None:
            text += f", budget {event.budget:,} trainable parameters"
        self.line(text, "bold")
        if event.n_finished:
            self.line(f"{event.n_finished} of them stand already and are kept")
        if self.bars is not None and self.n_jobs:
            self.overall = self.bars.add_task("all cells", total=self.n_jobs, words="", left=None)

    def on_CellStarted(self, event: Any) -> None:
        if event.kind != "cell":
            self.n_jobs += 1  # base and trials come on top of the cells that were planned
        self.fractions[event.name] = 0.0
        if self.bars is not None:
            self.tasks[event.name] = self.bars.add_task(readable(event.name), total=None, words="starting", left=None)

    def on_CellPhase(self, event: Any) -> None:
        if self.bars is not None and event.name in self.tasks:
            self.bars.update(self.tasks[event.name], words=event.phase, left=None)

    def on_CellProgress(self, event: Any) -> None:
        # Loading and evaluation have no steps; a trained cell is taken to be nine tenths done.
        self.fractions[event.name] = 0.9 * event.step / max(1, event.total)
        if self.bars is None or event.name not in self.tasks:
            return
        task = self.tasks[event.name]
        if self.bars.tasks[self.bars.task_ids.index(task)].total is None:
            self.bars.reset(task, total=event.total)
        elapsed = self.bars.tasks[self.bars.task_ids.index(task)].elapsed or 0.0
        self.bars.update(
            task,
            completed=event.step,
            words=_words(event.loss, event.tokens_per_second),
            left=_left(event.step, event.total, elapsed),
        )

    def on_CellFinished(self, event: Any) -> None:
        self._end(event.name)
        split = "validation" if event.kind == "trial" else "test"
        loss = "" if event.loss is None else f"  {split} loss {event.loss:.4f}"
        self.line(f"{self._place()} {readable(event.name):<32}{loss}  {output.duration(event.seconds)}")

    def on_CellFailed(self, event: Any) -> None:
        self._end(event.name)
        self.line(f"{self._place()} {readable(event.name)} failed: {event.error} (log: {event.log})", "red")

    def on_LearningRateChosen(self, event: Any) -> None:
        self.line(f"learning rate of {readable(event.experiment)}: {event.learning_rate:g}")

    def on_Interrupted(self, event: Any) -> None:
        self.line(event.advice, "yellow")

    def _end(self, name: str) -> None:
        self.fractions.pop(name, None)
        self.n_done += 1
        task = self.tasks.pop(name, None)
        if self.bars is not None and task is not None:
            self.bars.remove_task(task)

    def _place(self) -> str:
        return f"[{self.n_done}/{max(self.n_jobs, self.n_done)}]"

    def _update_overall(self) -> None:
        if self.bars is None or self.overall is None:
            return
        done = self.n_done + sum(self.fractions.values())
        left = _left(done, self.n_jobs, time.monotonic() - self.started)
        self.bars.update(self.overall, completed=done, total=self.n_jobs, words=self._place()[1:-1], left=left)


# ------------------------------------------------------------------------------------------------------ fine-tuning


@contextlib.contextmanager
def training_progress() -> Iterator[OnProgress]:
    """What `finetune` reports to; everything goes to standard error."""
    if output.is_terminal() and output.is_main_process():
        with _bars(output.messages()) as bars:
            task = bars.add_task("training", total=None, words="starting", left=None)

            def report(
                step: int, total: int, loss: float | None, tokens_per_second: float | None, eval_loss: float | None
            ) -> None:
                left = _left(step, total, bars.tasks[0].elapsed or 0.0)
                words = _words(loss, tokens_per_second, eval_loss)
                bars.update(task, completed=step, total=total, words=words, left=left)

            yield report
    else:
        yield _TrainingLines(output.messages())


class _TrainingLines:
    """A line for each tenth of a training run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = time.monotonic()
        self.shown = self.first = -1

    def __call__(
        self, step: int, total: int, loss: float | None, tokens_per_second: float | None, eval_loss: float | None
    ) -> None:
        if self.first < 0:
            self.first = step - 1  # a run that was resumed begins here
        tenth = 10 * step // max(1, total)
        if tenth <= self.shown or loss is None:
            return
        self.shown = tenth
        left = _left(step - self.first, total - self.first, time.monotonic() - self.started)
        rest = "" if left is None or step == total else f"  {output.duration(left)} left"
        words = _words(loss, tokens_per_second, eval_loss)
        output.say(f"step {step}/{total}  {words}{rest}", to=self.console)


# ----------------------------------------------------------------------------------------------------------- phases


@contextlib.contextmanager
def phase_progress() -> Iterator[OnPhase]:
    """What work of several phases reports to: a bar for the phase that runs, elsewhere a line as each one begins."""
    if output.is_terminal() and output.is_main_process():
        with _bars(output.messages()) as bars:
            task = bars.add_task("loading", total=None, words="", left=None)

            def show(phase: str, done: int, total: int) -> None:
                if bars.tasks[0].description != phase:
                    bars.reset(task, description=phase)
                left = _left(done, total, bars.tasks[0].elapsed or 0.0)
                bars.update(task, completed=done, total=total, words=f"{done}/{total}", left=left)

            yield show
    else:
        console, seen = output.messages(), set()

        def line(phase: str, done: int, total: int) -> None:
            if phase not in seen:
                seen.add(phase)
                output.say(phase, to=console)

        yield line
