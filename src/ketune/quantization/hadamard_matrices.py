"""Matrices with orthogonal rows and entries of one size, or nearly: what fast rotations of any width are made of.

A Hadamard matrix has entries +-1 and orthogonal rows; it can exist for the orders 1, 2 and multiples of 4 only. Those
here are Sylvester's for powers of two and Paley's two families over finite fields, which reach q + 1 and 2 (q + 1) for
prime powers q; Kronecker products with Sylvester's make wider ones. The Hartley matrix, cos + sin of the discrete
Fourier transform, stands in for the orders that are left. It is orthogonal for every order, and its entries are at most
the square root of two times those of a Hadamard matrix, so that it spreads an outlier nearly as evenly.

Sources: R. E. A. C. Paley, On orthogonal matrices, J. Math. Phys. 12 (1933); R. N. Bracewell, The discrete Hartley
transform, J. Opt. Soc. Am. 73 (1983).
"""

from __future__ import annotations

from itertools import product
from math import isqrt

import torch
from torch import Tensor

MAX_BASE = 1024
"""The largest order for which a Paley matrix is built: beyond, its dense product costs more than it is worth."""


def sylvester(order: int) -> Tensor:
    """Sylvester's Hadamard matrix (order, order) in int64, for a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.int64, device="cpu")
    two = torch.tensor([[1, 1], [1, -1]], device="cpu")
    while len(matrix) < order:
        matrix = torch.kron(two, matrix)
    return matrix


def paley(order: int) -> Tensor:
    """A Hadamard matrix (order, order) in int64 of one of Paley's families.

    Raises:
        ValueError: when `order` is neither q + 1 with a prime power q = 3 mod 4, nor 2 (q + 1) with q = 1 mod 4.
    """
    q = paley_field(order)
    if q is None:
        raise ValueError(
            f"order={order}: no Paley matrix; use q + 1 (prime power q = 3 mod 4) or 2 (q + 1) (q = 1 mod 4)"
        )
    border = torch.ones(q, dtype=torch.int64, device="cpu")
    core = torch.zeros(q + 1, q + 1, dtype=torch.int64, device="cpu")
    core[0, 1:], core[1:, 0], core[1:, 1:] = border, border if q % 4 == 1 else -border, quadratic_characters(q)
    identity = torch.eye(q + 1, dtype=torch.int64, device="cpu")
    if q % 4 == 3:  # the core is skew, and its square is -q
        return identity + core
    plus, minus = torch.tensor([[1, 1], [1, -1]], device="cpu"), torch.tensor([[1, -1], [-1, -1]], device="cpu")
    return torch.kron(core, plus) + torch.kron(identity, minus)  # the core is symmetric, and its square is q


def paley_field(order: int) -> int | None:
    """The number q of field elements that a Paley matrix of this order is made from; None when there is none."""
    if order % 4:
        return None
    for q, remainder in ((order - 1, 3), (order // 2 - 1, 1)):
        if q % 4 == remainder and _prime_power(q) is not None:
            return q
    return None


def hartley(order: int) -> Tensor:
    """The orthonormal Hartley matrix (order, order) in float64: `(cos + sin)(2 pi j k / order) / sqrt(order)`."""
    steps = torch.arange(order, device="cpu")
    turns = torch.outer(steps, steps) % order  # in integers, so that no digit is lost for large products
    angles = turns.double() * (2 * torch.pi / order)
    return (angles.cos() + angles.sin()) / order**0.5


def hadamard_base(width: int) -> int | None:
    """The order b of the smallest matrix such that `width` = 2^k b has a Hadamard matrix, Sylvester's times that.

    1 for powers of two, otherwise a Paley order up to `MAX_BASE`; None when there is none.
    """
    odd = width
    while odd % 2 == 0:
        odd //= 2
    if odd == 1:
        return 1
    base = 4 * odd
    while base <= MAX_BASE and width % base == 0:
        if paley_field(base) is not None:
            return base
        base *= 2
    return None


def quadratic_characters(q: int) -> Tensor:
    """chi(a - b) (q, q) in int64 for the elements a, b of the field of q elements.

    chi is 1 for squares, -1 for what is no square, and 0 for 0. Elements are polynomials in x with coefficients modulo
    the prime p, q = p^k, written as numbers in base p. Every element but 0 is a power of a primitive element, and the
    squares are its even powers.
    """
    p, degree = _prime_power(q) or (0, 0)
    if p < 3:
        raise ValueError(f"q={q}: quadratic characters need an odd prime power")
    places = p ** torch.arange(degree, device="cpu")
    character = torch.zeros(q, dtype=torch.int64, device="cpu")
    for exponent, element in enumerate(_powers_of_a_primitive_element(p, degree)):
        character[sum(digit * p**place for place, digit in enumerate(element))] = 1 - 2 * (exponent % 2)
    digits = torch.arange(q, device="cpu")[:, None] // places % p
    differences = (digits[:, None] - digits[None]) % p
    return character[(differences * places).sum(-1)]


def _powers_of_a_primitive_element(p: int, degree: int) -> list[tuple[int, ...]]:
    """All elements but 0 as powers x^0, x^1, ... modulo the first monic polynomial for which x has the full order.

    If x takes p^degree - 1 values, every element but 0 is one of them and has an inverse: this is a field.
    """
    one: tuple[int, ...] = tuple(int(place == 0) for place in range(degree))
    for low in product(range(p), repeat=degree):  # x^degree = low[0] + low[1] x + ...
        powers, element = [one], _times_x(one, low, p)
        while element != one and any(element) and len(powers) < p**degree:
            powers.append(element)
            element = _times_x(element, low, p)
        if element == one and len(powers) == p**degree - 1:
            return powers
    raise AssertionError(f"the field of {p}^{degree} elements has a primitive element")


def _times_x(element: tuple[int, ...], low: tuple[int, ...], p: int) -> tuple[int, ...]:
    top = element[-1]
    return tuple((digit + top * coefficient) % p for digit, coefficient in zip((0, *element[:-1]), low))


def _prime_power(q: int) -> tuple[int, int] | None:
    """(p, k) with q = p^k and a prime p, or None."""
    if q < 2:
        return None
    p = next((divisor for divisor in range(2, isqrt(q) + 1) if q % divisor == 0), q)
    exponent = 0
    while q % p == 0:
        q, exponent = q // p, exponent + 1
    return (p, exponent) if q == 1 else None
