"""Run a comparison: plan it, skip what stands, run the rest in processes of their own, write the report.

A comparison may be killed at any moment and started again: each cell's result is one file, written whole, and a cell
whose file says "success" is never run again.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ketune.comparison import tuning
from ketune.comparison.cells import CellRequest, measure_base, run_cell, run_trial
from ketune.comparison.events import (
    CellFailed,
    CellFinished,
    CellSkipped,
    CellStarted,
    Event,
    Interrupted,
    LearningRateChosen,
    OnEvent,
    Planned,
    ReportWritten,
)
from ketune.comparison.experiments import Experiment, read_config, write_experiment
from ketune.comparison.lock import folder_lock
from ketune.comparison.measurement import available_cores
from ketune.comparison.peft_fields import failed_result
from ketune.comparison.planning import Plan, prepare
from ketune.comparison.result_checks import ResultError
from ketune.comparison.results import Result
from ketune.comparison.spec import ComparisonSpec, SpecError
from ketune.comparison.workers import Done, Failed, Job, Workers, warm_up
from ketune.errors import KetuneError
from ketune.files import write_atomically

BASE_TEST = "base_test.json"
SMALL_MODEL = 30_000_000
"""Up to this many parameters a second CPU thread gains less than a second cell beside it."""


@dataclass
class Outcome:
    """How a comparison ended.

    Attributes:
        out: Its folder.
        finished: Cells that were run now.
        skipped: Cells whose result stood already.
        failed: Cells that failed, with one line on why.
        interrupted: Whether the user stopped it.
        report: The Markdown report, None if no cell has succeeded yet.
    """

    out: Path
    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    report: Path | None = None

    @property
    def complete(self) -> bool:
        """Whether every cell of the comparison has its result."""
        return not self.failed and not self.interrupted

    @property
    def exit_code(self) -> int:
        """For the shell: 0 when complete, 1 when cells failed, 130 when the user stopped it."""
        return 130 if self.interrupted else int(bool(self.failed))


def run_comparison(
    spec: ComparisonSpec, out: str | Path, on_event: OnEvent | None = None, *, jobs: int | None = None
) -> Outcome:
    """Run a comparison, or go on with one that was stopped.

    Args:
        spec: What to compare.
        out: Folder of the comparison; made if it is not there.
        on_event: Called with each event, in this process and thread.
        jobs: Cells that run side by side, sharing the CPU cores evenly. None: one per core for small models on the CPU,
            else one. It changes times, never losses, so keep it the same within a comparison.

    Returns:
        What ran, what failed and where the report is. Ctrl-C ends the call, not the process: see `interrupted`.

    Raises:
        KetuneError: Nothing can be run as asked: another comparison stands in `out` or runs there now, or the model,
            the data, the budget or an experiment folder cannot be used.
    """
    if jobs is not None and jobs < 1:
        raise SpecError(f"jobs={jobs}: pass at least 1 cell at a time")
    out = Path(out)
    with folder_lock(out), contextlib.ExitStack() as stack:
        warm_up()  # the server imports while we plan
        plan = prepare(spec, out)
        n_jobs, threads = _share_cores(plan, jobs)
        workers = stack.enter_context(Workers(n_jobs, threads))
        run = _Run(plan, out, on_event or _ignore, workers, Outcome(out))
        try:
            run.everything()
        except KeyboardInterrupt:
            workers.close()
            run.outcome.interrupted = True
            run.emit(Interrupted(f"stopped; the finished cells stand in {out}: the same command goes on from there"))
        run.report()
        return run.outcome


def _ignore(event: Event) -> None:
    pass


def _share_cores(plan: Plan, jobs: int | None) -> tuple[int, int]:
    """Cells at once and CPU threads of each."""
    import torch

    cores = available_cores()
    if jobs is None:
        jobs = cores if plan.n_parameters <= SMALL_MODEL and not torch.cuda.is_available() else 1
    return jobs, max(1, cores // jobs)


class _Run:
    """One call of `run_comparison`."""

    def __init__(self, plan: Plan, out: Path, emit: OnEvent, workers: Workers, outcome: Outcome) -> None:
        self.plan, self.out, self.emit, self.workers, self.outcome = plan, out, emit, workers, outcome
        self.base: dict[str, Any] | None = _read_base(out)
        self.waiting_for_base: list[tuple[Result, float]] = []
        self.chosen: dict[str, tuple[Experiment, list[dict[str, float | None]]]] = {}

    def everything(self) -> None:
        open_cells = []
        for experiment, seed in self.plan.cells():
            name = experiment.cell(seed)
            if _stands(self.out / "results" / f"{name}.json"):
                self.outcome.skipped.append(name)
            else:
                open_cells.append((experiment, seed))
        names = tuple(experiment.cell(seed) for experiment, seed in self.plan.cells())
        self.emit(Planned(names, len(self.outcome.skipped), self.plan.budget, self.plan.notes))
        for name in self.outcome.skipped:
            self.emit(CellSkipped(name))
        if not open_cells:
            return
        first = [] if self.base is not None else [self._job("base", "base", measure_base, Path("base"))]
        needed = [experiment for experiment in self.plan.experiments if experiment in {e for e, _ in open_cells}]
        while trials := self._open_trials(needed):
            self._run([*first, *trials])
            first = []
        self._choose_rates(needed)
        cells = [self._cell(*cell) for cell in open_cells if cell[0].id in self.chosen]
        self._run([*first, *cells])

    # ------------------------------------------------------------------------------------------------ making jobs

    def _job(self, name: str, kind: str, work: Callable[..., Any], folder: Path, **request: Any) -> Job:
        folder = self.out / folder
        system = (("threads", self.workers.threads), ("cells_at_once", self.workers.n))
        payload = CellRequest(plan=self.plan, out=self.out, name=name, folder=folder, system=system, **request)
        return Job(name, kind, work, payload, folder / "log.txt")

    def _open_trials(self, experiments: Sequence[Experiment]) -> list[Job]:
        going = [experiment for experiment in experiments if experiment.id not in self.outcome.failed]
        return [self._trial(*trial) for trial in tuning.open_trials(self.out, going, self.plan.spec.lr_trials)]

    def _trial(self, experiment: Experiment, rate: float) -> Job:
        name = tuning.trial_name(experiment, rate)
        folder = Path(tuning.FOLDER) / name
        return self._job(
            name, "trial", run_trial, folder, experiment=experiment, seed=tuning.TRIAL_SEED, learning_rate=rate
        )

    def _cell(self, experiment: Experiment, seed: int) -> Job:
        name = experiment.cell(seed)
        experiment, trials = self.chosen[experiment.id]
        return self._job(
            name,
            "cell",
            run_cell,
            Path("cells") / name,
            experiment=experiment,
            seed=seed,
            learning_rate=experiment.learning_rate,
            lr_trials=tuple(trials),
        )

    def _choose_rates(self, experiments: Sequence[Experiment]) -> None:
        """Settle the rate of each experiment; one whose trials all failed gets failed cells."""
        for experiment in experiments:
            if not experiment.learning_rates:
                self.chosen[experiment.id] = (experiment, [])
                continue
            trials = tuning.read_trials(self.out, experiment)
            best = tuning.choose(trials)
            if best is None:
                error = self.outcome.failed.get(experiment.id, "training diverged with every learning rate tried")
                for seed in self.plan.spec.seeds:
                    self._fail(experiment.cell(seed), "cell", f"no learning rate was found: {error}", experiment, seed)
                continue
            rate, note = best
            notes = (*experiment.notes, note) if note else experiment.notes
            tuned = replace(experiment, learning_rate=rate, notes=notes)
            self.chosen[experiment.id] = (tuned, trials)
            config = read_config(self.out / experiment.path)
            write_experiment(self.out, tuned, config, self.plan.spec.training, self.plan.spec.model)
            self.emit(LearningRateChosen(experiment.id, rate))

    # ----------------------------------------------------------------------------------------------- running jobs

    def _run(self, jobs: Sequence[Job]) -> None:
        queue = deque(jobs)
        while queue or self.workers.n_running:
            while queue and self.workers.has_room:
                job = queue.popleft()
                self.workers.start(job)
                self.emit(CellStarted(job.name, job.kind))
            for message in self.workers.wait():
                if isinstance(message, Done):
                    self._done(message)
                elif isinstance(message, Failed):
                    self._failed(message)
                else:
                    self.emit(message)

    def _done(self, message: Done) -> None:
        job, value = message.job, message.value
        if job.kind == "base":
            write_atomically(self.out / BASE_TEST, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
            self.base = value
            self.emit(CellFinished(job.name, job.kind, value["test"]["loss"], message.seconds))
            for result, seconds in self.waiting_for_base:
                self._save(result, seconds)
            self.waiting_for_base.clear()
        elif job.kind == "trial":
            request: CellRequest = job.request
            assert request.experiment is not None
            tuning.save_trial(self.out, request.experiment, request.learning_rate, value)
            self.emit(CellFinished(job.name, job.kind, value["eval_loss"], message.seconds))
        else:
            result = Result.from_dict(value)
            if self.base is None:
                self.waiting_for_base.append((result, message.seconds))
            else:
                self._save(result, message.seconds)

    def _save(self, result: Result, seconds: float) -> None:
        assert self.base is not None
        result.ketune.base_test = self.base["test"]
        result.save(self.out / "results" / result.file_name)
        name = result.file_name.removesuffix(".json")
        self.outcome.finished.append(name)
        self.emit(CellFinished(name, "cell", result.ketune.test.get("loss"), seconds))

    def _failed(self, message: Failed) -> None:
        job = message.job
        if job.kind == "base":
            # Without the base there is nothing to compare with, and no cell could load it either.
            where = "" if message.refused else f"; see {job.log}"
            raise KetuneError(f"the base model could not be evaluated: {message.error}{where}")
        request: CellRequest = job.request
        assert request.experiment is not None
        if job.kind == "trial":
            self.outcome.failed[request.experiment.id] = message.error
            self.emit(CellFailed(job.name, job.kind, message.error, str(job.log)))
        else:
            self._fail(job.name, job.kind, message.error, request.experiment, request.seed)

    def _fail(self, name: str, kind: str, error: str, experiment: Experiment, seed: int) -> None:
        """Write a failed cell's result, so that the report can name it, and go on."""
        self.outcome.failed[name] = error
        config = read_config(self.out / experiment.path)
        failure = failed_result(experiment, seed, self.plan.spec.model, config, error)
        failure.save(self.out / "results" / f"{name}.json")
        self.emit(CellFailed(name, kind, error, str(self.out / "cells" / name / "log.txt")))

    def report(self) -> None:
        """Write the report over whatever stands, if any cell has succeeded."""
        if not any(_stands(path) for path in (self.out / "results").glob("*.json")):
            return
        from ketune.comparison.report import write_report

        self.outcome.report = Path(write_report(self.out))
        self.emit(ReportWritten(str(self.outcome.report)))


def _stands(path: Path) -> bool:
    """Whether a cell's result is there and says that all went well."""
    try:
        return path.exists() and Result.load(path).ok
    except ResultError:
        return False


def _read_base(out: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((out / BASE_TEST).read_text(encoding="utf-8"))
        return found if "loss" in found["test"] else None
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        return None
