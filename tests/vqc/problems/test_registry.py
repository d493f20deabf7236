"""The registry of problems: every entry builds from JSON, names its options, and answers mistakes."""

import json

import pytest
import torch

from ketune.errors import KetuneError
from ketune.vqc.problems import FAMILIES, PROBLEMS, EnergyProblem, LabelledData, make_family, make_problem
from ketune.vqc.problems.registry import options_of

SMALL = {
    "heisenberg": {"n_wires": 3, "n_layers": 1, "coupling": [1.0, 0.5, -1.0]},
    "transverse-ising": {"n_wires": 3, "n_layers": 1},
    "max-cut": {"n_wires": 5},
    "hubbard": {"n_sites": 2, "n_layers": 1},
    "h2": {"n_layers": 1},
    "lih": {"n_layers": 1},
    "quantum-dots": {"n_rows": 20},
    "digits": {"n_rows": 40, "classes": [1, 3]},
    "ecg": {"n_rows": 60},
    "regimes": {"n_rows": 300},
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_is_made_from_json_options(name):
    problem = make_problem(name, **json.loads(json.dumps(SMALL[name])))
    entry = PROBLEMS[name]
    assert isinstance(problem, EnergyProblem if entry.is_energy else LabelledData)
    if isinstance(problem, EnergyProblem):
        angles = torch.zeros(problem.circuit.n_angles, dtype=torch.float64)
        assert float(problem.energy(angles)) >= problem.ground_energy - 1e-9


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_option_has_a_default_that_json_holds_and_a_help_text(name):
    entry = PROBLEMS[name]
    assert entry.help
    assert set(SMALL[name]) <= set(entry.options)
    for option in entry.options.values():
        assert json.loads(json.dumps(option.default)) in (option.default, [*_listed(option.default)])
        assert len(option.help) > 4, option.name


def _listed(value):
    return value if isinstance(value, tuple) else ()


@pytest.mark.parametrize("name", FAMILIES)
def test_families_draw_problems_with_descriptors_of_one_length(name):
    draw = make_family(name)
    generator = torch.Generator().manual_seed(0)
    problems = [draw(generator) for _ in range(3)]
    assert len({len(problem.descriptor) for problem in problems}) == 1
    assert all(option.help or option.name for option in options_of(FAMILIES[name]).values())


def test_mistakes_are_answered_with_what_was_meant():
    with pytest.raises(KetuneError, match="unknown problem 'hubard'; did you mean 'hubbard'"):
        make_problem("hubard")
    with pytest.raises(KetuneError, match="unknown problem 'xyz'; choose one of 'heisenberg'"):
        make_problem("xyz")
    with pytest.raises(KetuneError, match="'max-cut' has no option 'n_wire'; did you mean 'n_wires'"):
        make_problem("max-cut", n_wire=4)
    with pytest.raises(KetuneError, match=r"'max-cut'.*graph='grid'"):
        make_problem("max-cut", graph="grid")
    with pytest.raises(KetuneError, match="problem 'heisenberg': "):
        make_problem("heisenberg", n_wires="six")
    with pytest.raises(KetuneError, match="unknown family 'molecules'; did you mean 'molecule'"):
        make_family("molecules")


def test_help_texts_of_several_lines_are_joined():
    text = PROBLEMS["lih"].options["n_wires"].help
    assert text.startswith("4 (orbitals 1 and 2)")
    assert text.endswith("the first two freeze orbital 0.")
