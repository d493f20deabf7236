import pytest

from ketune.circuits import ry_ring
from ketune.circuits.build import CircuitError, build_circuit


def test_a_circuit_is_built_by_wires_or_by_width():
    assert build_circuit("ry_ring", 3, 2, "linear") == ry_ring(3, 2, "linear")
    assert build_circuit("ry_ring", in_features=9) == ry_ring(4)


@pytest.mark.parametrize("options", [{}, {"n_wires": 2, "in_features": 4}, {"n_wires": 0}, {"n_wires": 99}])
def test_a_circuit_needs_exactly_one_sensible_width(options):
    with pytest.raises(CircuitError):
        build_circuit("ry_ring", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ansatz": "ry_rin", "n_wires": 2}, "'ry_rin'.*'ry_ring'"),
        ({"ansatz": "ry_ring", "n_wires": 2, "n_layers": 0}, "n_layers=0"),
        ({"ansatz": "ry_ring", "n_wires": 2, "entangler": "rng"}, "'rng'"),
    ],
)
def test_other_choices_are_refused_in_one_line(options, message):
    with pytest.raises(CircuitError, match=message):
        build_circuit(**options)
