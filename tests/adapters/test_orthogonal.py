"""Skew matrices, Cayley maps, plane rotations and starts that every dtype rebuilds alike."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.adapters.orthogonal import (
    cayley_change,
    cayley_columns,
    plane_rotation_change,
    random_angles,
    random_frame,
    random_normal,
    skew,
)


def test_a_skew_matrix_has_its_values_below_the_diagonal_row_by_row():
    expected = torch.tensor([[0.0, -1, -2], [1, 0, -3], [2, 3, 0]])
    assert torch.equal(skew(torch.tensor([1.0, 2, 3]), 3), expected)
    assert torch.equal(skew(torch.tensor([[1.0, 2, 3]] * 2), 3), torch.stack([expected] * 2))


def test_the_cayley_change_is_the_rotation_minus_the_identity():
    s = skew(torch.randn(2, 15, dtype=torch.float64), 6)
    identity = torch.eye(6, dtype=torch.float64)
    rotation = (identity - s) @ torch.linalg.inv(identity + s)
    assert torch.allclose(cayley_change(s), rotation - identity, atol=1e-12)
    assert torch.allclose(rotation @ rotation.mT, identity.expand(2, -1, -1), atol=1e-12)
    assert not cayley_change(torch.zeros(5, 5)).any()


def test_a_tiny_rotation_keeps_its_relative_precision():
    s = skew(torch.randn(15) * 1e-6, 6)
    exact = cayley_change(s.double())
    assert ((cayley_change(s).double() - exact).norm() / exact.norm()).item() < 1e-6


def test_cayley_columns_are_the_first_columns_of_the_whole_rotation():
    b, a = torch.randn(7, 3, dtype=torch.float64), skew(torch.randn(3, dtype=torch.float64), 3)
    s = torch.zeros(10, 10, dtype=torch.float64)
    s[:3, :3], s[3:, :3], s[:3, 3:] = a, b, -b.T
    identity = torch.eye(10, dtype=torch.float64)
    whole = (identity - s) @ torch.linalg.inv(identity + s)
    assert torch.allclose(cayley_columns(b, a), whole[:, :3], atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(1, 8), size=st.floats(0, 3), seed=st.integers(0, 1000))
def test_cayley_columns_are_orthonormal(n, k, size, seed):
    torch.manual_seed(seed)
    k = min(n, k)
    columns = cayley_columns(size * torch.randn(n - k, k), size * skew(torch.randn(k * (k - 1) // 2), k))
    assert torch.allclose(columns.T @ columns, torch.eye(k), atol=2e-6)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_plane_rotations_turn_rows_p_and_h_plus_p(n):
    half = n // 2
    angles, rows = torch.randn(half, dtype=torch.float64), torch.randn(n, 3, dtype=torch.float64)
    expected = rows.clone()
    for p, angle in enumerate(angles):
        expected[p] = angle.cos() * rows[p] - angle.sin() * rows[half + p]
        expected[half + p] = angle.sin() * rows[p] + angle.cos() * rows[half + p]
    assert torch.allclose(rows + plane_rotation_change(rows, angles), expected, atol=1e-12)
    assert not plane_rotation_change(rows, torch.zeros(half)).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_start_values_are_the_same_in_every_dtype(dtype):
    for values in (
        random_angles(3, 0, (500,)),
        random_normal(3, 0, (500,), 1e-3),
        random_frame(3, 0, 40, 7),
    ):
        assert torch.equal(values.to(dtype).float(), values)
        assert values.unique().numel() > 100


def test_start_values_depend_on_the_seed_and_the_part_alone():
    first = random_angles(1, 0, (20,))
    torch.rand(5)
    assert torch.equal(random_angles(1, 0, (20,)), first)
    assert not torch.equal(random_angles(2, 0, (20,)), first)
    assert not torch.equal(random_angles(1, 1, (20,)), first)
    assert first.abs().max() < torch.pi


def test_a_random_frame_is_orthonormal_up_to_its_rounding():
    frame = random_frame(5, 0, 200, 12)
    assert torch.allclose(frame.T @ frame, torch.eye(12), atol=2e-2)
