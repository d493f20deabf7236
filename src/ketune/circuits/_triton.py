"""Running a plan on a batch in the Triton kernels, forward and back.

Imported only where the kernels run, so that nobody else waits for Triton.
"""

# Kernels take the options of their launch beside their arguments, which a type checker does not know.
# pyright: reportCallIssue=false

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ketune.circuits._plan import Plan
from ketune.circuits._product_states import product_states, product_states_back
from ketune.circuits._small_matrices import SmallMatrices, add_phases_cotangent, angles_cotangent, small_matrices
from ketune.circuits._triton_kernels import forward
from ketune.circuits._triton_kernels_back import backward
from ketune.circuits._triton_tables import WORDS_AT_A_TIME, TritonTables

INPUT_PRECISIONS = {"highest": "ieee", "tf32x3": "tf32x3", "tf32": "tf32"}
"""Triton's names of the values of `matmul_precision`."""

_TILE_NUMBERS = 2**11  # real numbers of the states that a program works on at a time, at least
_STATE_BYTES = 1 << 26  # of product states that are made at a time
_GRADIENT_BYTES = 1 << 26  # of cotangents of matrices that all programs keep together
_PROGRAMS_FORWARD, _PROGRAMS_BACK = 8, 4  # for each multiprocessor


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _on(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def tile_options(plan: Plan) -> dict[str, Any]:
    """The compile-time arguments that both kernels share, with warps and stages."""
    numbers = plan.components * plan.dim
    samples = max(1, _TILE_NUMBERS // numbers)
    return {
        "H": plan.height,
        "S": samples,
        "W": plan.width,
        "K": WORDS_AT_A_TIME,
        "COMPLEX": plan.components == 2,
        "WORDS": plan.readout != "probabilities",
        "P": INPUT_PRECISIONS[plan.matmul_precision],
        "num_warps": 8 if samples * numbers > 2 * _TILE_NUMBERS else 4,
        "num_stages": 2,
    }


def _parts(matrices: Tensor) -> Tensor:
    """(layers, N, N) as (layers, C, N, N), real parts before imaginary ones."""
    if matrices.is_complex():
        return torch.view_as_real(matrices).movedim(-1, 1).contiguous()
    return matrices.contiguous()


class _Launch:
    """What forward and backward share: tables, matrices, and the grid."""

    def __init__(self, plan: Plan, x: Tensor, angles: Tensor) -> None:
        self.plan, self.x = plan, x.detach()
        self.tables: TritonTables = plan.triton_tables(x.device)
        self.small: SmallMatrices = small_matrices(
            plan, plan.tables(x.device, torch.float32), angles.detach().to(torch.float32)
        )
        self.high, self.low = _parts(self.small.high), _parts(self.small.low)
        self.options = tile_options(plan)

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Amplitudes of the batch: the features as they are, or product states, some at a time."""
        count = len(self.x)
        if self.plan.encoding == "amplitude":
            yield slice(0, count), self.x
            return
        step = max(1, _STATE_BYTES // (4 * self.plan.dim))
        for start in range(0, count, step):
            part = self.x[start : start + step].to(torch.float32)
            yield slice(start, start + step), product_states(part, self.plan.n_wires)

    def programs(self, count: int, for_each_multiprocessor: int) -> int:
        tiles = -(-count // self.options["S"])
        return min(tiles, for_each_multiprocessor * _multiprocessors(self.x.device))

    def arguments(self, amplitudes: Tensor, n_programs: int) -> tuple[Any, ...]:
        """The leading arguments of both kernels, with memory for the states that each program is at."""
        tables, plan = self.tables, self.plan
        numbers = n_programs * 2 * plan.components * self.options["S"] * plan.dim
        scratch = torch.empty(numbers, dtype=torch.float32, device=amplitudes.device)
        features = (amplitudes, *amplitudes.stride(), plan.n_amplitudes)
        layers = (self.high, self.low, tables.layers, tables.moves, plan.n_layers)
        signs = (tables.signs_high, tables.signs_low, tables.signs_high.shape[1])
        return (*features, *layers, *signs, tables.ends, scratch)


def run_triton(plan: Plan, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Readouts (B, k) and squared norms (B,) in float32 of at least one sample."""
    launch = _Launch(plan, x, angles)
    out = torch.empty(len(x), plan.n_outputs, dtype=torch.float32, device=x.device)
    norms = torch.empty(len(x), dtype=torch.float32, device=x.device)
    with _on(x.device):
        for part, amplitudes in launch.chunks():
            n_programs = launch.programs(len(amplitudes), _PROGRAMS_FORWARD)
            arguments = launch.arguments(amplitudes, n_programs)
            forward[(n_programs,)](
                *arguments, out[part], norms[part], len(amplitudes), plan.n_outputs, **launch.options
            )
    return out, norms


def run_triton_back(
    plan: Plan,
    cotangent: Tensor,
    x: Tensor,
    angles: Tensor,
    out: Tensor,
    norms: Tensor,
    need_x: bool,
    need_angles: bool,
) -> tuple[Tensor, Tensor]:
    """Cotangents of x (B, n_features) and of the angles (n_angles,) in float32; empty where not needed."""
    launch = _Launch(plan, x, angles)
    device = x.device
    cotangent, out, norms = (t.detach().to(torch.float32).contiguous() for t in (cotangent, out, norms))
    size = plan.components * (plan.height**2 + plan.width**2)
    of_angles = torch.zeros(plan.n_layers, size, dtype=torch.float32, device=device)
    d_x = []
    with _on(device):
        for part, amplitudes in launch.chunks():
            count = len(amplitudes)
            most = max(1, _GRADIENT_BYTES // (4 * of_angles.numel()))
            n_programs = min(launch.programs(count, _PROGRAMS_BACK), most)
            d_part = torch.empty(count if need_x else 0, plan.n_amplitudes, dtype=torch.float32, device=device)
            slices = of_angles.new_zeros(n_programs if need_angles else 0, plan.n_layers, size)
            backward[(n_programs,)](
                *launch.arguments(amplitudes, n_programs),
                cotangent[part],
                out[part],
                norms[part],
                d_part,
                slices,
                count,
                plan.n_outputs,
                NEED_X=need_x,
                NEED_ANGLES=need_angles,
                **launch.options,
            )
            if need_x and plan.encoding == "angle":
                d_part = product_states_back(amplitudes, d_part, plan.n_features)
            d_x.append(d_part)
            of_angles += slices.sum(0)
    whole = (d_x[0] if len(d_x) == 1 else torch.cat(d_x)) if need_x else angles.new_empty(0, dtype=torch.float32)
    return whole, _angles(launch, of_angles) if need_angles else angles.new_empty(0, dtype=torch.float32)


def _angles(launch: _Launch, sums: Tensor) -> Tensor:
    """Cotangent of the angles from the sums (layers, C (H H + W W)) that the kernel leaves."""
    plan, small = launch.plan, launch.small
    high, low = sums.split((plan.components * plan.height**2, plan.components * plan.width**2), 1)
    d_high = high.unflatten(1, (plan.components, plan.height, plan.height))
    d_low = low.unflatten(1, (plan.components, plan.width, plan.width))
    if plan.components == 1:
        d_high, d_low = d_high[:, 0], d_low[:, 0]
    else:
        d_high, d_low = torch.complex(d_high[:, 0], d_high[:, 1]), torch.complex(d_low[:, 0], d_low[:, 1])
    for place in launch.tables.diagonal_places:
        phases = high[place, : 2 * plan.dim].view(2, plan.height, plan.width)
        d_high[place].zero_()
        add_phases_cotangent(small, place, torch.complex(phases[0], phases[1]), d_high, d_low)
    return angles_cotangent(plan, plan.tables(launch.x.device, torch.float32), small, d_high, d_low)
