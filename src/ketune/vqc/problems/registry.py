"""The problems by name, with their options: what `ketune vqc <problem>` and configuration files choose from."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ketune.errors import KetuneError
from ketune.vqc.problems.base import EnergyProblem, Family, LabelledData
from ketune.vqc.problems.digits import digits
from ketune.vqc.problems.ecg import ecg
from ketune.vqc.problems.hubbard import hubbard_family, hubbard_problem
from ketune.vqc.problems.max_cut import max_cut_family, max_cut_problem
from ketune.vqc.problems.molecules import h2_problem, lih_problem, molecule_family
from ketune.vqc.problems.quantum_dots import quantum_dots
from ketune.vqc.problems.regimes import regimes
from ketune.vqc.problems.spin_chains import heisenberg_family, heisenberg_problem, transverse_ising_problem


class ProblemError(KetuneError, ValueError):
    """A problem that does not exist, or that cannot be made with these options."""


@dataclass(frozen=True)
class Option:
    """One option of a problem.

    Args:
        name: its name, also the keyword of the builder.
        default: its default, which JSON can hold.
        help: what it is, for a command line.
    """

    name: str
    default: Any
    help: str


@dataclass(frozen=True)
class ProblemEntry:
    """One problem of the registry.

    Args:
        name: what it is chosen by.
        build: makes it from keyword options, all of which JSON can hold.
        is_energy: True for an `EnergyProblem`, False for `LabelledData`.
        help: what it is, in one sentence.
    """

    name: str
    build: Callable[..., EnergyProblem | LabelledData]
    is_energy: bool
    help: str

    @property
    def options(self) -> dict[str, Option]:
        """The options by name, from the builder's signature and docstring."""
        return options_of(self.build)


def options_of(build: Callable[..., Any]) -> dict[str, Option]:
    """The options of a builder: names and defaults from its signature, help texts from the Args of its docstring."""
    texts = _argument_texts(inspect.getdoc(build) or "")
    return {
        name: Option(name, parameter.default, texts.get(name, ""))
        for name, parameter in inspect.signature(build).parameters.items()
    }


PROBLEMS: dict[str, ProblemEntry] = {
    entry.name: entry
    for entry in (
        ProblemEntry("heisenberg", heisenberg_problem, True, "ground state of an open Heisenberg XYZ chain"),
        ProblemEntry("transverse-ising", transverse_ising_problem, True, "ground state of the Ising chain in a field"),
        ProblemEntry("max-cut", max_cut_problem, True, "largest cut of a random graph"),
        ProblemEntry("hubbard", hubbard_problem, True, "ground state of the Fermi-Hubbard chain at fixed filling"),
        ProblemEntry("h2", h2_problem, True, "ground state of the hydrogen molecule"),
        ProblemEntry("lih", lih_problem, True, "ground state of lithium hydride"),
        ProblemEntry("quantum-dots", quantum_dots, False, "single or double dot from a charge stability diagram"),
        ProblemEntry("digits", digits, False, "handwritten digits of 8 x 8 pixels"),
        ProblemEntry("ecg", ecg, False, "normal or ventricular heartbeats of one of eight patients"),
        ProblemEntry("regimes", regimes, False, "does a price rise next, in one of eight regimes"),
    )
}
"""All problems by name."""

FAMILIES: dict[str, Callable[..., Family]] = {
    "heisenberg": heisenberg_family,
    "max-cut": max_cut_family,
    "hubbard": hubbard_family,
    "molecule": molecule_family,
}
"""Families of problems by name; each builder gives a sampler, a torch generator to one `EnergyProblem`."""


def make_problem(name: str, /, **options: Any) -> EnergyProblem | LabelledData:
    """A problem by name.

    Args:
        name: one of `PROBLEMS`.
        options: keywords of its builder, as JSON holds them (lists do for tuples).

    Raises:
        ProblemError: for an unknown name or option, or a value that the problem refuses.

    Example:
        >>> make_problem("heisenberg", n_wires=4).name
        'heisenberg-4'
        >>> make_problem("heisenburg")
        Traceback (most recent call last):
            ...
        ketune.vqc.problems.registry.ProblemError: unknown problem 'heisenburg'; did you mean 'heisenberg'?
    """
    return _make(
        "problem", name, _builder("problem", name, {key: entry.build for key, entry in PROBLEMS.items()}), options
    )


def make_family(name: str, /, **options: Any) -> Family:
    """A family of problems by name.

    Args:
        name: one of `FAMILIES`.
        options: keywords of its builder.

    Raises:
        ProblemError: for an unknown name or option, or a value that the family refuses.

    Example:
        >>> draw = make_family("hubbard", n_sites=2)
    """
    return _make("family", name, _builder("family", name, FAMILIES), options)


def _builder(kind: str, name: str, builders: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if name not in builders:
        raise ProblemError(f"unknown {kind} {name!r}; {_nearest(name, builders)}")
    return builders[name]


def _make(kind: str, name: str, build: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    known = options_of(build)
    for option in options:
        if option not in known:
            raise ProblemError(f"{kind} {name!r} has no option {option!r}; {_nearest(option, known)}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    try:
        return build(**given)
    except KetuneError:
        raise
    except (TypeError, ValueError) as error:
        raise ProblemError(f"{kind} {name!r}: {error}") from error


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(map(repr, known))}"


def _argument_texts(docstring: str) -> dict[str, str]:
    """The texts of the section Args of a docstring, each as one line."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", docstring, re.MULTILINE)
    texts: dict[str, str] = {}
    name = ""
    for line in section.group(1).splitlines() if section else ():
        if begins := re.match(r"^ {4}(\w+): (.*)", line):
            name = begins.group(1)
            texts[name] = begins.group(2)
        elif name and line.strip():
            texts[name] += " " + line.strip()
    return texts
