"""Circuits with a set of angles per sample: which form runs them, and second derivatives in plain torch.

Forms. Compiled code takes sets of angles all at once (`_execute_sets`); with many samples for each set, one run per set
is faster; without compiled code, chunks of samples go through the plain reference, as second derivatives always do.

Shapes. Angles are (A, n_angles): A sets of angles. Features are (A, S, n_features), S samples for each set, or
(1, S, n_features) when all sets share them. Memory stays bounded: nothing but the arguments is kept, and a chunk is
computed anew for its derivatives.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import vjp

from ketune.circuits._dtypes import compute_dtype
from ketune.circuits._execute import run_program, run_program_back
from ketune.circuits._execute_sets import Chunk, cut, run_sets, run_sets_back, take
from ketune.circuits._plan import program
from ketune.circuits._precision import in_full_float32
from ketune.circuits._reference import Reference, reference
from ketune.circuits._sets_plan import SetsProgram, sets_program

_CHUNK_BYTES = {"cpu": 1 << 24, "cuda": 1 << 28}  # of everything that one chunk keeps for its derivative
# From so many amplitudes per set of angles on, one run per set is faster than all at once (benchmarks/angle_sets.py).
_MANY_AMPLITUDES = {"plain": 1 << 13, "compiled": 1 << 18}


def compiled_form(description: str, x: Tensor, n_sets: int) -> SetsProgram | None:
    """The compiled form for a batch, where it can run and is the fastest.

    Args:
        description: of the circuit, see `ketune.circuits._plan.describe`.
        x: (..., S, n_features) features.
        n_sets: number of sets of angles.
    """
    n_samples = x.shape[-2]
    if x.device.type != "cpu" or not n_sets or not n_samples:
        return None
    compiled = sets_program(description)
    if compiled is None or not description.startswith("amplitude"):
        return compiled  # encodings are gates to it, for which other forms need states as features
    return compiled if n_samples << compiled.n_wires < _MANY_AMPLITUDES["compiled"] else None


def _one_run_per_set(description: str, x: Tensor, angles: Tensor) -> bool:
    """Whether to run the sets of angles one after another, each on all its samples, where they are not compiled."""
    if not len(angles) or description.startswith("iqp"):
        return False
    return x.shape[1] << reference(description).n_wires >= _MANY_AMPLITUDES["plain"]


def run_batched_angles(description: str, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Readouts and squared norms, as `run_program`, for several sets of angles.

    Args:
        description: of the circuit, see `ketune.circuits._plan.describe`; also with the encoding "iqp:r", r repeats.
        x: (A, S, n_features) features, or (1, S, n_features) for all sets.
        angles: (A, n_angles) in radians.

    Returns:
        readouts (A, S, k) and squared norms (A, S), in float32, or in float64 when features or angles are float64.
    """
    compiled = compiled_form(description, x, len(angles))
    if compiled is not None:
        return run_sets(compiled, x, angles)
    if not _one_run_per_set(description, x, angles):
        return evaluate(description, x, angles)
    runs = [run_program(program(description), x[a % len(x)], each) for a, each in enumerate(angles)]
    out, norms = zip(*runs)
    return torch.stack(out), torch.stack(norms)


@in_full_float32
def run_batched_angles_back(
    description: str,
    cotangent: Tensor,
    x: Tensor,
    angles: Tensor,
    out: Tensor,
    norms: Tensor,
    need_x: bool,
    need_angles: bool,
) -> tuple[Tensor, Tensor]:
    """Cotangents of x and of the angles, in their shapes and types; (0,) where not needed."""
    compiled = compiled_form(description, x, len(angles))
    if compiled is not None:
        return run_sets_back(compiled, cotangent, x, angles, out, norms, need_x, need_angles)
    if not _one_run_per_set(description, x, angles):
        d_x = x.new_zeros(x.shape if need_x else (0,))
        d_angles = angles.new_zeros(angles.shape if need_angles else (0,))
        for (sets, samples), part_x, part_angles in _pulled_chunks(description, cotangent, x, angles):
            if need_x:
                (d_x if len(x) == 1 else d_x[sets])[:, samples] += part_x
            if need_angles:
                d_angles[sets] += part_angles
        return d_x, d_angles
    d_x = x.new_zeros(x.shape if need_x else (0,), dtype=compute_dtype(x, angles))
    d_angles = angles.new_empty(angles.shape if need_angles else (0,))
    for a, each in enumerate(angles):
        parts = run_program_back(
            program(description), cotangent[a], x[a % len(x)], each, out[a], norms[a], need_x, need_angles
        )
        if need_x:
            d_x[a % len(x)] += parts[0]
        if need_angles:
            d_angles[a] = parts[1]
    return d_x.to(x.dtype), d_angles


def _chunks(reference: Reference, x: Tensor, angles: Tensor, order: int) -> list[Chunk]:
    """Cuts sets of angles and samples into pieces whose derivatives of this order fit the budget."""
    n_samples = x.shape[1]
    budget = _CHUNK_BYTES.get(x.device.type, _CHUNK_BYTES["cuda"])
    each = reference.bytes_per_sample(compute_dtype(x, angles).itemsize, n_samples) * max(1, 3 * order - 2)
    return cut(len(angles), n_samples, max(1, budget // each))


class _Sums:
    """Puts together what chunks give, in ways that can be differentiated."""

    def __init__(self, x: Tensor, angles: Tensor) -> None:
        self.x, self.angles = x, angles
        self.d_x: dict[tuple[int, int], Tensor] = {}
        self.d_angles: dict[int, Tensor] = {}

    def add(self, chunk: Chunk, d_x: Tensor, d_angles: Tensor) -> None:
        """Adds the cotangents of one chunk; features that all sets share collect a sum, and so do angles."""
        first = chunk[0].start
        place = (0 if self.x.shape[0] == 1 else first, chunk[1].start)
        self.d_x[place] = self.d_x[place] + d_x if place in self.d_x else d_x
        self.d_angles[first] = self.d_angles[first] + d_angles if first in self.d_angles else d_angles

    def features(self) -> Tensor:
        return _grid(self.d_x) if self.d_x else torch.zeros_like(self.x)

    def sets(self) -> Tensor:
        return torch.cat(list(self.d_angles.values())) if self.d_angles else torch.zeros_like(self.angles)


def _grid(parts: dict[tuple[int, int], Tensor]) -> Tensor:
    """Pieces by (first set, first sample), joined to (A, S, ...)."""
    rows: dict[int, list[Tensor]] = {}
    for (first, _), part in parts.items():
        rows.setdefault(first, []).append(part)
    return torch.cat([torch.cat(row, 1) for row in rows.values()])


@in_full_float32
def evaluate(description: str, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Readouts (A, S, k) and squared norms (A, S), chunk by chunk; differentiable, then without bounded memory."""
    function = reference(description)
    chunks = _chunks(function, x, angles, 1)
    if not chunks:
        dtype = compute_dtype(x, angles)
        shape = (len(angles), x.shape[1])
        return x.new_zeros(*shape, function.n_outputs, dtype=dtype), x.new_ones(shape, dtype=dtype)
    outs, norms = {}, {}
    for chunk in chunks:
        place = (chunk[0].start, chunk[1].start)
        outs[place], norms[place] = function(take(x, chunk), angles[chunk[0]])
    return _grid(outs), _grid(norms)


def _pulled_chunks(
    description: str, cotangent: Tensor, x: Tensor, angles: Tensor
) -> Iterator[tuple[Chunk, Tensor, Tensor]]:
    function = reference(description)
    for chunk in _chunks(function, x, angles, 1):
        pull = vjp(_readouts(function), take(x, chunk), angles[chunk[0]])[1]
        yield chunk, *pull(take(cotangent, chunk))


@in_full_float32
def pull_back(description: str, cotangent: Tensor, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Cotangents of features and angles from that of the readouts (A, S, k); differentiable."""
    sums = _Sums(x, angles)
    for chunk, d_x, d_angles in _pulled_chunks(description, cotangent, x, angles):
        sums.add(chunk, d_x, d_angles)
    return sums.features(), sums.sets()


@in_full_float32
def second_order(
    description: str, cotangent: Tensor, x: Tensor, angles: Tensor, v_x: Tensor, v_angles: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Jacobian and Hessian times a vector v.

    Args:
        description: of the circuit.
        cotangent: (A, S, k) weights of the readouts.
        x: (A or 1, S, n_features).
        angles: (A, n_angles).
        v_x: the vector's part for the features.
        v_angles: its part for the angles.

    Returns:
        J v, (A, S, k), and the derivatives of cotangent · J v by features and by angles.
    """
    function = reference(description)
    sums = _Sums(x, angles)
    chunks = _chunks(function, x, angles, 2)
    if not chunks:
        return torch.zeros_like(cotangent), sums.features(), sums.sets()

    def back(cotangent: Tensor, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        return vjp(_readouts(function), x, angles)[1](cotangent)

    products = {}
    for chunk in chunks:
        pull = vjp(back, take(cotangent, chunk), take(x, chunk), angles[chunk[0]])[1]
        product, d_x, d_angles = pull((take(v_x, chunk), v_angles[chunk[0]]))
        products[chunk[0].start, chunk[1].start] = product
        sums.add(chunk, d_x, d_angles)
    return _grid(products), sums.features(), sums.sets()


def _readouts(function: Reference) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, angles: function(x, angles)[0]
