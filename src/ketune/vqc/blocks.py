"""What stands between an encoder and a head: a circuit, or one of the blocks that it has to beat.

The block swap is the control that the published hybrids lack: the same encoder and the same head with a linear map of
as many parameters, with random angles that never train, and with nothing in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ketune.circuits import Circuit, NoiseModel, read_pauli_z
from ketune.vqc.starts import STARTS

BLOCKS = ("circuit", "linear", "frozen", "none")
"""Kinds of blocks of `make_block`."""


class CircuitBlock(nn.Module):
    """Features to <Z> on every wire, with angles of its own or, call by call, with given ones.

    Args:
        circuit: any number of wires; beyond 14 see `read_pauli_z`.
        encoding: "angle" (one RY angle per wire) or "amplitude" (up to `2 ** n_wires` features).
        angles: (n_angles,) the angles at the start; None for a block that is always given its angles.
        trained: False keeps the angles as they are.

    Attributes:
        angles: (n_angles,), a parameter if trained, else a buffer; or None.
        noise: the noise model of the next calls, None for exact ones; set by `noisy`.
        n_trajectories: trajectories of each noisy sample.
        generator: source of the noise, the global one when None.

    Example:
        >>> from ketune.circuits import rxryrz_ring
        >>> block = CircuitBlock(rxryrz_ring(3), "angle", torch.zeros(9))
        >>> block(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    angles: Tensor | None

    def __init__(
        self, circuit: Circuit, encoding: str = "angle", angles: Tensor | None = None, trained: bool = True
    ) -> None:
        super().__init__()
        self.circuit, self.encoding = circuit, encoding
        start = None if angles is None else angles.detach().clone()
        if start is not None and trained:
            self.angles = nn.Parameter(start)
        else:  # a buffer: nothing that makes all parameters of a module trainable, as PEFT does, reaches it
            self.register_buffer("angles", start)
        self.n_outputs = circuit.n_wires
        self.noise: NoiseModel | None = None
        self.n_trajectories = 1
        self.generator: torch.Generator | None = None

    def forward(self, features: Tensor, angles: Tensor | None = None) -> Tensor:
        """(..., n_features) to (..., n_wires); `angles` (n_angles,) or (..., n_angles) take the place of its own.

        Raises:
            ValueError: for a block without angles that is given none.
        """
        chosen = self.angles if angles is None else angles
        if chosen is None:
            raise ValueError("CircuitBlock: made without angles; pass angles=... at every call, as a hypernetwork does")
        return read_pauli_z(
            self.circuit,
            features,
            chosen,
            encoding=self.encoding,
            noise=self.noise,
            n_trajectories=self.n_trajectories,
            generator=self.generator,
        )


@contextmanager
def noisy(
    model: nn.Module, noise: NoiseModel | None, n_trajectories: int = 16, seed: int | None = None
) -> Iterator[nn.Module]:
    """Every `CircuitBlock` of a model runs with this noise inside the block, and as before behind it.

    Args:
        model: the model.
        noise: the noise model; None for exact circuits.
        n_trajectories: trajectories of each sample.
        seed: of the noise; the global source when None.
    """
    blocks = [module for module in model.modules() if isinstance(module, CircuitBlock)]
    before = [(block.noise, block.n_trajectories, block.generator) for block in blocks]
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for block in blocks:
        block.noise, block.n_trajectories, block.generator = noise, n_trajectories, generator
    try:
        yield model
    finally:
        for block, settings in zip(blocks, before):
            block.noise, block.n_trajectories, block.generator = settings


class LinearBlock(nn.Module):
    """A linear map with exactly as many parameters as it is given: the stand-in for a circuit.

    The parameters fill the matrix diagonal after diagonal, each of which visits every input; where the matrix is full,
    the rest goes into further square matrices behind it, which start at the identity where they have no parameter.

    Args:
        n_inputs: length of the input.
        n_outputs: length of the output.
        n_parameters: number of parameters, at least 1.
        generator: draws them so that inputs of variance 1 give outputs of about variance 1.

    Attributes:
        values: (n_parameters,) trainable.

    Raises:
        ValueError: for sizes below 1.

    Example:
        >>> block = LinearBlock(8, 8, 24)
        >>> block(torch.zeros(5, 8)).shape, sum(p.numel() for p in block.parameters())
        (torch.Size([5, 8]), 24)
    """

    def __init__(
        self, n_inputs: int, n_outputs: int, n_parameters: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if min(n_inputs, n_outputs, n_parameters) < 1:
            raise ValueError(
                f"LinearBlock({n_inputs}, {n_outputs}, {n_parameters}): inputs, outputs and parameters are at least 1"
            )
        self.n_inputs, self.n_outputs = n_inputs, n_outputs
        self.shapes: list[tuple[int, int, int]] = []  # rows, columns, parameters
        left, columns = n_parameters, n_inputs
        values = []
        while left:
            here = min(left, n_outputs * columns)
            self.shapes.append((n_outputs, columns, here))
            values.append(torch.randn(here, generator=generator) / math.sqrt(max(1.0, here / n_outputs)))
            cells = _cells(n_outputs, columns, here)
            self.register_buffer(f"_cells_{len(self.shapes) - 1}", cells, persistent=False)
            left, columns = left - here, n_outputs
        self.values = nn.Parameter(torch.cat(values))

    def matrix(self) -> Tensor:
        """The whole map (n_outputs, n_inputs)."""
        whole = None
        start = 0
        for number, (rows, columns, here) in enumerate(self.shapes):
            cells = self.get_buffer(f"_cells_{number}")
            factor = self.values.new_zeros(rows * columns)
            if whole is not None:
                factor = torch.eye(rows, dtype=factor.dtype, device=factor.device).flatten()
            factor = factor.index_copy(0, cells, self.values[start : start + here]).view(rows, columns)
            whole = factor if whole is None else factor @ whole
            start += here
        assert whole is not None
        return whole

    def forward(self, features: Tensor, angles: Tensor | None = None) -> Tensor:
        """(..., n_inputs) to (..., n_outputs). Angles are of no use to it and are left alone."""
        return features @ self.matrix().T

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"n_inputs={self.n_inputs}, n_outputs={self.n_outputs}, n_parameters={self.values.numel()}"


def _cells(rows: int, columns: int, n_cells: int) -> Tensor:
    """Places in the flattened matrix, diagonal after diagonal; a last diagonal that is not full is spread evenly."""
    longest = max(rows, columns)
    cells: list[int] = []
    for turn in range(-(-n_cells // longest)):
        missing = min(longest, n_cells - len(cells))
        places = [k * longest // missing for k in range(missing)]
        if columns >= rows:
            cells += [((k + turn) % rows) * columns + k for k in places]
        else:
            cells += [k * columns + (k + turn) % columns for k in places]
    return torch.tensor(cells, dtype=torch.int64)


class NoBlock(nn.Module):
    """Nothing: features go to the head as they are.

    Args:
        n_features: their number.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_outputs = n_features

    def forward(self, features: Tensor, angles: Tensor | None = None) -> Tensor:
        """The features."""
        return features


def make_block(
    kind: str,
    circuit: Circuit,
    encoding: str = "angle",
    *,
    n_features: int | None = None,
    start: str | None = "uniform",
    generator: torch.Generator | None = None,
) -> CircuitBlock | LinearBlock | NoBlock:
    """A block by its name.

    Args:
        kind: "circuit"; "linear", a linear map with as many parameters as the circuit has angles; "frozen", the circuit
            with random angles, uniform in [-pi, pi), that are never trained; "none", no block.
        circuit: the circuit that is there or is replaced.
        encoding: "angle" or "amplitude".
        n_features: features that the block gets; by default `n_wires` for "angle", `2 ** n_wires` for "amplitude".
        start: one of `STARTS`, for the trained circuit; None for a circuit that is given its angles at every call.
        generator: draws what is random.

    Raises:
        ValueError: for an unknown kind, encoding or start.
    """
    if kind not in BLOCKS:
        raise ValueError(f"block={kind!r}: unknown block; choose one of {', '.join(map(repr, BLOCKS))}")
    if encoding not in ("angle", "amplitude"):
        raise ValueError(f"encoding={encoding!r}: choose 'angle' or 'amplitude'")
    if start is not None and start not in STARTS:
        raise ValueError(f"start={start!r}: unknown start; choose one of {', '.join(map(repr, STARTS))}")
    n_inputs = n_features or (circuit.n_wires if encoding == "angle" else 2**circuit.n_wires)
    if kind == "none":
        return NoBlock(n_inputs)
    if kind == "linear":
        return LinearBlock(n_inputs, circuit.n_wires, circuit.n_angles, generator)
    if kind == "frozen":
        return CircuitBlock(circuit, encoding, STARTS["uniform"](circuit, generator).float(), trained=False)
    return CircuitBlock(circuit, encoding, None if start is None else STARTS[start](circuit, generator).float())
