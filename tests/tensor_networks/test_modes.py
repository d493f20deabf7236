"""Widths as products of modes."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ketune.tensor_networks import balanced_modes

# The table of QTHA's released code (specs, section 2.1) as far as it is balanced; 27648 and 20480 are not.
PUBLISHED = {
    3584: (8, 8, 8, 7),
    18944: (37, 8, 8, 8),
    5120: (10, 8, 8, 8),
    4096: (8, 8, 8, 8),
    2560: (8, 8, 8, 5),
    2048: (8, 8, 8, 4),
    1024: (8, 8, 4, 4),
    512: (8, 4, 4, 4),
    256: (4, 4, 4, 4),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_modes_are_found(size):
    assert balanced_modes(size) == PUBLISHED[size]


@given(size=st.integers(1, 30_000), n_modes=st.integers(1, 5))
def test_modes_hold_the_width_with_little_padding_and_are_even(size, n_modes):
    modes = balanced_modes(size, n_modes)
    assert len(modes) == n_modes
    assert list(modes) == sorted(modes, reverse=True)
    assert size <= math.prod(modes) <= 1.25 * size + 1
    assert sum(modes) <= 1.35 * n_modes * math.prod(modes) ** (1 / n_modes) + 1e-9


@pytest.mark.parametrize("size", [*range(1, 61), 64, 96, 120])
def test_no_other_factorisation_has_a_smaller_sum(size):
    modes = balanced_modes(size, 3)
    whole = math.prod(modes)
    divisors = [d for d in range(1, whole + 1) if whole % d == 0]
    assert sum(modes) == min(sum(other) for other in product(divisors, repeat=3) if math.prod(other) == whole)


def test_a_width_with_even_factors_is_never_padded():
    assert all(math.prod(balanced_modes(2**k)) == 2**k for k in range(17))
    assert all(math.prod(balanced_modes(3 * 2**k)) == 3 * 2**k for k in range(15))


def test_widths_below_one_are_refused():
    for arguments in ((0, 4), (8, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            balanced_modes(*arguments)
