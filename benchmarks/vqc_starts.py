"""Where angles start: iterations to a target from fixed starts, Q-MAML and FLIP, on tasks that none of them has seen.

Every start is treated alike: Adam, its learning rate chosen from one grid on validation tasks, then the same held-out
tasks with every seed. A seed is a draw of the start's angles, and for a learned start a training of its own. Fixed
starts without randomness are the same for all seeds. What stands in --out is never run again, so a killed run goes on
with the same command; cells are written whole.

    python benchmarks/vqc_starts.py                             # everything, under an hour beside other work
    python benchmarks/vqc_starts.py --settings h2 --seeds 3     # one problem
    python benchmarks/vqc_starts.py --only-report               # tables and pictures from what stands
    python benchmarks/vqc_starts.py --quick --out /tmp/starts   # a minute, to see that it runs
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ketune.vqc import STARTS, EnergyProblem, FlipDecoder, Initialiser, Learner, load_initialiser, minimise
from ketune.vqc.meta_training import meta_train, mixture, one_of
from ketune.vqc.problems.base import Family
from ketune.vqc.problems.batches import EnergyBatch, group_by_circuit
from ketune.vqc.problems.hubbard import hubbard_family
from ketune.vqc.problems.max_cut import max_cut_family
from ketune.vqc.problems.molecules import molecule, molecule_problem, split_lengths
from ketune.vqc.problems.spin_chains import heisenberg_family, heisenberg_problem
from vqc_starts_report import report

SLOW_RATE = 1e-3  # Adam's learning rate in the published comparison of Q-MAML
MODES = {"start": (0, "first"), "3 steps, first order": (3, "first"), "3 steps, second order": (3, "second")}
TITLES = {"q_maml": "Q-MAML", "flip": "FLIP"}


@dataclass(frozen=True)
class Setting:
    """A family to compare starts on.

    Args:
        title: for tables.
        learn: the families to learn from, of problems or of lists of them.
        validation: tasks to choose learning rates on.
        test: tasks to report on.
        targets: gaps to come down to, the last of which decides; shares of |ground energy|, or Hartree.
        absolute: whether gaps are Hartree.
        learners: kinds of learned starts and how many steps each trains for.
        n_iterations: steps of Adam from every start.
        rates: learning rates to choose from.
    """

    title: str
    learn: tuple[Family, ...]
    validation: list[EnergyProblem]
    test: list[EnergyProblem]
    targets: tuple[float, ...]
    absolute: bool
    learners: dict[str, int]
    n_iterations: int
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(family: Family, first_seed: int, n: int) -> list[EnergyProblem]:
    return [family(seeded(first_seed + k)) for k in range(n)]


def without(family: Family, n: int, held_out: list[EnergyProblem]) -> Family:
    """A pool of n problems of a family, none of which is held out."""
    known = {(problem.circuit, problem.descriptor) for problem in held_out}
    source = seeded(0)
    drawn = [family(source) for _ in range(n)]
    return one_of([problem for problem in drawn if (problem.circuit, problem.descriptor) not in known])


def spin_chain(n_wires: int, n_layers: int, n: int = 16) -> tuple[list[EnergyProblem], list[EnergyProblem]]:
    family = heisenberg_family(n_wires, n_layers)
    return draw(family, 10_000, n), draw(family, 20_000, n)


def heisenberg() -> Setting:
    validation, test = spin_chain(6, 3)
    learn = (without(heisenberg_family(6, 3), 1024, validation + test),)
    steps = {"q_maml": 2500, "flip": 2500}
    return Setting("Heisenberg XYZ, 6 wires, 3 layers", learn, validation, test, (0.05, 0.01), False, steps, 250)


def h2() -> Setting:
    lengths, held_out = split_lengths("h2")
    chosen_on = lengths[1:-1:3]
    learn, validation, test = (
        [molecule_problem("h2", length, n_layers=7) for length in some]
        for some in ([length for length in lengths if length not in chosen_on], chosen_on, held_out)
    )
    steps = {"q_maml": 1000, "flip": 1000}
    title = f"H2, 4 wires, 7 layers, {len(molecule('h2').lengths)} bond lengths"
    return Setting(title, (one_of(learn),), validation, test, (1.6e-2, 1.6e-3), True, steps, 250)


def heisenberg_larger() -> Setting:
    validation, test = spin_chain(8, 4, 8)
    sizes = ((3, 2), (3, 3), (4, 2), (4, 3))
    learn = tuple(without(heisenberg_family(*size), 256, []) for size in sizes)
    title = "Heisenberg XYZ, 8 wires, 4 layers; FLIP trained on 3 and 4 wires, 2 and 3 layers"
    return Setting(title, learn, validation, test, (0.1, 0.05), False, {"flip": 500}, 200, (0.03, 0.1, 0.3))


def hubbard_larger() -> Setting:
    family = hubbard_family(4, n_layers=4)
    validation, test = draw(family, 10_000, 8), draw(family, 20_000, 8)
    learn = tuple(
        without(hubbard_family(*size), 64, []) for size in ((2, 0.0, 8.0, 2), (2, 0.0, 8.0, 3), (3, 0.0, 8.0, 3))
    )
    title = "Fermi-Hubbard, 4 sites (8 wires), 4 layers; FLIP trained on 2 and 3 sites, 2 and 3 layers"
    return Setting(title, learn, validation, test, (0.1, 0.05), False, {"flip": 500}, 200, (0.03, 0.1, 0.3))


def max_cut_larger() -> Setting:
    family = max_cut_family(12, n_layers=4)
    validation, test = draw(family, 10_000, 6), draw(family, 20_000, 8)
    learn = tuple(without(max_cut_family(n, n_layers=p), 24, []) for n, p in ((5, 2), (6, 3), (6, 4)))
    title = "Max-Cut by QAOA, 12 vertices, 4 layers; FLIP trained on 5 and 6 vertices, 2 to 4 layers"
    return Setting(title, learn, validation, test, (0.15, 0.1), False, {"flip": 150}, 100, (0.03, 0.1, 0.3))


SETTINGS: dict[str, Callable[[], Setting]] = {
    "heisenberg": heisenberg,
    "h2": h2,
    "heisenberg-larger": heisenberg_larger,
    "hubbard-larger": hubbard_larger,
    "max-cut-larger": max_cut_larger,
}


def quick(setting: Setting) -> Setting:
    few = dict.fromkeys(setting.learners, 20)
    return replace(setting, learners=few, n_iterations=20, rates=setting.rates[:2], validation=setting.validation[:3])


def made(kind: str, problem: EnergyProblem, seed: int) -> Initialiser:
    torch.manual_seed(seed)
    n_task = len(problem.descriptor)
    return FlipDecoder(n_task) if kind == "flip" else Learner(n_task, problem.circuit.n_angles)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def write(path: Path, found: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(found), encoding="utf-8")
    beside.replace(path)


def learned(out: Path, name: str, setting: Setting, kind: str, seed: int) -> Initialiser:
    """A learned start of one seed: from its file, or trained now."""
    file = out / "learned" / f"{name}-{kind}-{seed}.safetensors"
    if not (file.exists() and file.with_suffix(".json").exists()):
        initialiser = made(kind, setting.test[0], seed)
        n_steps = setting.learners[kind]
        n_tasks = 4 if name == "max-cut-larger" else 16 if name == "h2" else 32
        history = meta_train(
            initialiser,
            mixture(*setting.learn),
            n_steps,
            n_tasks,
            lr=5e-3,
            cosine=True,
            generator=seeded(seed),
            checkpoint=file.with_suffix(".checkpoint"),
        )
        initialiser.save(file)
        losses = history.losses[:: max(1, n_steps // 100)] + history.losses[-1:]
        counts = {"n_gradients": history.n_gradients, "seconds": history.seconds, "losses": losses}
        write(file.with_suffix(".json"), counts)
        say(f"{name}: {TITLES[kind]} with seed {seed} trained in {history.seconds:.0f} s to {losses[-1]:.4f}")
    return load_initialiser(file)


def starts(
    out: Path, name: str, setting: Setting, start: str, seeds: int, batches: list[EnergyBatch], shift: int
) -> list[Tensor]:
    """Starting angles of each batch, (seeds, tasks, angles) in float64."""
    if start in STARTS:
        angles = []
        for place, batch in enumerate(batches):
            sources = [seeded(shift + 10_000 * place + seed) for seed in range(seeds)]
            drawn = [torch.stack([STARTS[start](batch.circuit, s) for _ in range(len(batch))]) for s in sources]
            angles.append(torch.stack(drawn))
        return angles
    its = [learned(out, name, setting, start, seed) for seed in range(seeds)]
    with torch.no_grad():
        return [torch.stack([each(batch.circuit, batch.tasks()).double() for each in its]) for batch in batches]


def gaps(
    setting: Setting, batches: list[EnergyBatch], angles: list[Tensor], rate: float, n_iterations: int
) -> tuple[Tensor, float]:
    """Gaps (n_iterations + 1, seeds, tasks) and the seconds that it took."""
    found, seconds = [], 0.0
    for batch, its in zip(batches, angles):
        trace = minimise(batch, its, lambda p: torch.optim.Adam(p, lr=rate), n_iterations)
        scale = 1.0 if setting.absolute else batch.ground_energies.abs()
        found.append((trace.energies - batch.ground_energies) / scale)
        seconds += trace.seconds
    return torch.cat(found, -1), seconds


def steps_to(gap: Tensor, target: float) -> Tensor:
    """Iterations to a gap; one more than were run where it was never reached."""
    reached = gap <= target
    return torch.where(reached.any(0), reached.int().argmax(0), len(gap))


def descend(out: Path, name: str, setting: Setting, start: str, seeds: int) -> None:
    """One start on one setting: the learning rate on validation tasks, then all held-out tasks and seeds."""
    path = out / "descend" / name / f"{start}.json"
    if path.exists():
        return
    validation, test = group_by_circuit(setting.validation), group_by_circuit(setting.test)
    angles = starts(out, name, setting, start, min(2, seeds), validation, 500_000)
    tried = {}
    for rate in setting.rates:
        gap, _ = gaps(setting, validation, angles, rate, setting.n_iterations)
        tried[rate] = float(steps_to(gap, setting.targets[-1]).double().mean())
    rate = min(tried, key=tried.__getitem__)
    gap, seconds = gaps(setting, test, starts(out, name, setting, start, seeds, test, 0), rate, setting.n_iterations)
    found = {
        "rate": rate,
        "tried": tried,
        "steps": {target: steps_to(gap, target).tolist() for target in setting.targets},
        "first": gap[0].tolist(),
        "last": gap[-1].tolist(),
        "curve": gap.median(-1).values.tolist(),
        "n_iterations": setting.n_iterations,
        "seconds": seconds,
    }
    write(path, found)
    ends = f"gap {float(gap[0].mean()):.4f} to {float(gap[-1].mean()):.5f}"
    say(f"{name}: {start}, rate {rate:g}, {seconds:.0f} s, {ends}")


def slow(out: Path, name: str, setting: Setting, start: str, seeds: int, n_iterations: int) -> None:
    """The published learning rate, tuned for nobody: iterations to the last target."""
    path = out / "slow" / name / f"{start}.json"
    if path.exists():
        return
    test = group_by_circuit(setting.test)
    gap, _ = gaps(setting, test, starts(out, name, setting, start, seeds, test, 0), SLOW_RATE, n_iterations)
    steps = {target: steps_to(gap, target).tolist() for target in setting.targets}
    write(path, {"steps": steps, "last": gap[-1].tolist(), "n_iterations": n_iterations})
    say(f"{name}: {start} at {SLOW_RATE:g}, gap {float(gap[-1].mean()):.5f}")


def mode(out: Path, setting: Setting, title: str, seed: int, n_steps: int) -> None:
    """Q-MAML's Learner trained with and without inner steps."""
    path = out / "modes" / f"{title}-{seed}.json"
    if path.exists():
        return
    inner_steps, order = MODES[title]
    initialiser = made("q_maml", setting.test[0], seed)
    options = {"inner_steps": inner_steps, "inner_lr": 0.1, "order": order, "lr": 5e-3, "cosine": True}
    history = meta_train(initialiser, mixture(*setting.learn), n_steps, 16, generator=seeded(seed), **options)
    test = EnergyBatch(setting.test)
    with torch.no_grad():
        angles = initialiser(test.circuit, test.tasks()).double()
    gap, _ = gaps(setting, [test], [angles], 0.03, 200)
    found = {
        "n_gradients": history.n_gradients,
        "seconds": history.seconds,
        "first": gap[0].tolist(),
        "after": gap[20].tolist(),
        "steps": steps_to(gap, setting.targets[-1]).tolist(),
    }
    write(path, found)
    say(f"modes: {title}, seed {seed}: {history.seconds:.0f} s, gap {float(gap[0].mean()):.4f}")


@cache
def chain_learned(out: Path, kind: str, n_wires: int, seed: int, n_steps: int) -> Initialiser:
    """A start learned on chains of as many layers as wires; FLIP's on 3 and 4 wires, whatever `n_wires`."""
    file = out / "learned" / f"slopes-{kind}-{n_wires}-{seed}.safetensors"
    if not file.exists():
        sizes = (3, 4) if kind == "flip" else (n_wires,)
        families = [without(heisenberg_family(size, size), 128, []) for size in sizes]
        initialiser = made(kind, families[0](seeded(0)), seed)
        meta_train(initialiser, mixture(*families), n_steps, 16, lr=5e-3, cosine=True, generator=seeded(seed))
        initialiser.save(file)
    return load_initialiser(file)


def slopes(out: Path, n_wires: int, start: str, seeds: int, n_steps: int) -> None:
    """Mean square of the derivative by an angle at a start, over angles, seeds and couplings, per |ground energy|."""
    path = out / "slopes" / f"{start}-{n_wires}.json"
    if path.exists() or (start == "q_maml" and n_wires > 8):
        return
    couplings = [problem.descriptor for problem in draw(heisenberg_family(2, 1), 30_000, 4)]
    chains = EnergyBatch([heisenberg_problem(n_wires, (x, y, z), n_wires) for x, y, z in couplings])
    if start in STARTS:
        drawn = [STARTS[start](chains.circuit, seeded(k)) for k in range(seeds * len(chains))]
        angles = torch.stack(drawn).view(seeds, len(chains), -1)
    else:
        with torch.no_grad():
            its = [chain_learned(out, start, 4 if start == "flip" else n_wires, k, n_steps) for k in range(seeds)]
            angles = torch.stack([each(chains.circuit, chains.tasks()).double() for each in its])
    angles.requires_grad_()
    energies = chains.energy(angles)
    (gradient,) = torch.autograd.grad(energies.sum(), angles)
    scale = chains.ground_energies.abs()
    gap = ((energies - chains.ground_energies) / scale).detach()
    square = float((gradient / scale[:, None]).square().mean())
    write(path, {"square": square, "gap": float(gap.mean()), "n_angles": chains.circuit.n_angles})
    say(f"slopes: {start}, {n_wires} wires: {square:.2e} at gap {float(gap.mean()):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=tuple(SETTINGS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/vqc_starts"))
    parser.add_argument("--pictures", type=Path, help="folder for the pictures; --out when not given")
    parser.add_argument("--only-report", action="store_true", help="run nothing; tables and pictures of what stands")
    parser.add_argument("--quick", action="store_true", help="few steps of everything, for numbers that mean nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.only_report:
        run(options)
    print(report(options.out, {name: SETTINGS[name]().title for name in SETTINGS}, options.pictures or options.out))


def run(options: argparse.Namespace) -> None:
    """All cells: the comparisons first, then what explains them."""
    out, seeds, few = options.out, options.seeds, options.quick
    settings: dict[str, Setting] = {
        name: quick(SETTINGS[name]()) if few else SETTINGS[name]() for name in options.settings
    }
    for name, setting in settings.items():
        for start in (*STARTS, *setting.learners):
            descend(out, name, setting, start, seeds)
    if "heisenberg" in settings:
        for title in MODES:
            for seed in range(min(3, seeds)):
                mode(out, settings["heisenberg"], title, seed, 20 if few else 300)
    for n_wires in (4, 6) if few else (4, 6, 8, 10, 12):
        for start in (*STARTS, "q_maml", "flip"):
            slopes(out, n_wires, start, min(2, seeds), 20 if few else 200)
    for name in ("heisenberg", "h2"):
        for start in (*STARTS, "q_maml", "flip"):
            if name in settings:
                slow(out, name, settings[name], start, 1, 20 if few else 2000)


if __name__ == "__main__":
    main()
