"""TensorHyper-VQC: a tensor train that emits the angles of one or many circuits, in place of training them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ketune.vqc._angle_trains import CoordinateAngles, LatentAngles, PlacedAngles

KINDS = ("latent", "vector", "coordinates", "conditioned")
"""Where the angles come from; see `AngleHypernet`."""

GATES = ("scalar", "core", "none")
"""How the emitted angles are switched on; see `AngleHypernet`."""


class AngleHypernet(nn.Module):
    """Angles for `n_places` circuits of `n_angles` each, `start + gate * scale * TT(...)`, from one tensor train.

    TensorHyper-VQC (J. Qi et al., npj Quantum Inf. 2026, 10.1038/s41534-025-01157-z, arXiv 2508.01116, first called
    TensoMeta-VQC). Paper and released code differ, and both are here:

    - "latent" (the paper): a train applied to a fixed N(0, I) latent, one per place, rebuilt from the seed;
    - "vector": a train without an input that holds the angles of all places (the released LiH script);
    - "coordinates": a small network of trains reads a row about each angle, as FLIP does (`describe_angles`);
    - "conditioned" (the released classifier): a train applied to the input, so that every sample has its own angles.

    The gate. "scalar" is one trained number, zero at first: the emitted angles are exactly the start, its gradient is
    not zero, and after one step gradients reach the train. "core" has no such number and a last core of zeros, whose
    gradient is not zero either. "none" starts away from the start angles at once. A zero gate in front of a zero core
    would never move; there is no way to ask for it.

    Everything is computed in float32 or better, whatever the module's type and autocast say. Starts and latents depend
    on `seed` alone; latents are rebuilt, starts are saved with the module.

    Args:
        n_places: number of circuits, such as adapters of a model.
        n_angles: angles of each.
        kind: one of `KINDS`.
        max_rank: ranks of the trains.
        n_modes: modes of the trains.
        n_latent: length of a latent.
        n_features: length of the input, for "conditioned".
        descriptors: for "coordinates" a row about each angle, (n_angles, S), the same for every place; nine numbers
            about the place are added where there are several.
        hidden: width of the network of "coordinates".
        bias: whether the train of "conditioned" has one number of its own for each angle.
        gate: one of `GATES`.
        scale: factor on what the train emits, which has variance 1 at the start (for "coordinates" it lies between -pi
            and pi).
        start: (n_places, n_angles) or (n_angles,) angles; "uniform" draws them from [-pi, pi), "zeros" has none.
        train_start: trains the start angles too (the "global angles" of the released code).
        seed: of everything that is drawn.

    Attributes:
        start: (n_places, n_angles), a buffer or a parameter.
        wants_rows: True where `forward` takes `x`.

    Raises:
        ValueError: for an unknown kind, gate or start, sizes below 1, or `n_features` and `descriptors` that are
            missing, of another shape, or out of place.

    Example:
        >>> shared = AngleHypernet(48, 60, "vector", max_rank=4)
        >>> shared(7).shape, torch.equal(shared(7), shared.start[7])
        (torch.Size([60]), True)
        >>> AngleHypernet.count_parameters(48, 60, "vector", max_rank=4)
        277
    """

    start: Tensor

    def __init__(
        self,
        n_places: int,
        n_angles: int,
        kind: str = "latent",
        *,
        max_rank: int = 4,
        n_modes: int = 4,
        n_latent: int = 16,
        n_features: int | None = None,
        descriptors: Tensor | None = None,
        hidden: int = 16,
        bias: bool = True,
        gate: str = "scalar",
        scale: float = 1.0,
        start: Tensor | str = "uniform",
        train_start: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(n_places, n_angles, kind, gate, n_features, descriptors)
        self.n_places, self.n_angles, self.kind, self.scale, self.seed = n_places, n_angles, kind, scale, seed
        self.wants_rows = kind == "conditioned"
        angles = _starts(start, n_places, n_angles, seed)
        if train_start:
            self.start = nn.Parameter(angles)
        else:
            self.register_buffer("start", angles)
        generator = torch.Generator().manual_seed(seed)
        if kind == "latent":
            self.source = LatentAngles(n_places, n_angles, n_latent, max_rank, n_modes, generator)
        elif kind == "vector":
            self.source = PlacedAngles(n_places, n_angles, 1, max_rank, n_modes, False, generator)
        elif kind == "coordinates":
            assert descriptors is not None
            self.source = CoordinateAngles(n_places, descriptors, hidden, max_rank, n_modes, generator)
        else:
            assert n_features is not None
            self.source = PlacedAngles(n_places, n_angles, n_features, max_rank, n_modes, bias, generator)
        if gate == "core":
            with torch.no_grad():
                self.source.last_core().zero_()
        self.gate = nn.Parameter(torch.zeros(())) if gate == "scalar" else None

    def forward(self, place: int | None = None, x: Tensor | None = None) -> Tensor:
        """The angles of one place, or of all.

        Args:
            place: which circuit, from 0; None for all of them, or for the only one of a "conditioned" hypernetwork.
            x: (..., n_features) rows, for "conditioned" and only then.

        Returns:
            (n_angles,) radians; (n_places, n_angles) without a place; for "conditioned" (..., n_angles), a set for each
            row.

        Raises:
            ValueError: for a place that is not there, rows where none belong or none where some do.
        """
        if (x is not None) != self.wants_rows:
            raise ValueError(
                f"AngleHypernet(kind={self.kind!r}): " + ("pass x=..." if self.wants_rows else "takes a place and no x")
            )
        if place is not None and not 0 <= place < self.n_places:
            raise ValueError(f"place={place}: this hypernetwork emits angles for places 0 to {self.n_places - 1}")
        if self.wants_rows and place is None and self.n_places > 1:
            raise ValueError(f"place=None: a conditioned hypernetwork of {self.n_places} places needs to be told which")
        with torch.autocast(self.start.device.type, enabled=False):
            if x is not None:
                emitted = self.source(place or 0, x)
                start = self.start[place or 0]
            else:
                emitted = self.source(place)
                start = self.start if place is None else self.start[place]
            factor = self.scale if self.gate is None else self.scale * self.gate.to(emitted.dtype)
            return start.to(emitted.dtype) + factor * emitted

    @staticmethod
    def count_parameters(
        n_places: int,
        n_angles: int,
        kind: str = "latent",
        *,
        max_rank: int = 4,
        n_modes: int = 4,
        n_latent: int = 16,
        n_features: int | None = None,
        n_descriptors: int | None = None,
        hidden: int = 16,
        bias: bool = True,
        gate: str = "scalar",
        train_start: bool = False,
    ) -> int:
        """Number of trainable parameters, without making any; arguments as for the class.

        Args:
            n_descriptors: S of `descriptors` (n_angles, S), for "coordinates".
        """
        if kind == "latent":
            total = LatentAngles.count(n_angles, n_latent, max_rank, n_modes)
        elif kind == "vector":
            total = PlacedAngles.count(n_places, n_angles, 1, max_rank, n_modes, False)
        elif kind == "coordinates":
            total = CoordinateAngles.count(n_places, n_descriptors or 0, hidden, max_rank, n_modes)
        else:
            total = PlacedAngles.count(n_places, n_angles, n_features or 0, max_rank, n_modes, bias)
        return total + (gate == "scalar") + (n_places * n_angles if train_start else 0)

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"n_places={self.n_places}, n_angles={self.n_angles}, kind={self.kind!r}, scale={self.scale}"


def _starts(start: Tensor | str, n_places: int, n_angles: int, seed: int) -> Tensor:
    if isinstance(start, Tensor):
        if start.shape not in ((n_places, n_angles), (n_angles,)):
            raise ValueError(
                f"start of shape {tuple(start.shape)}: pass ({n_places}, {n_angles}) angles, or ({n_angles},) for all"
            )
        return start.detach().to(torch.promote_types(start.dtype, torch.float32)).expand(n_places, n_angles).clone()
    if start == "zeros":
        return torch.zeros(n_places, n_angles)
    if start != "uniform":
        raise ValueError(f"start={start!r}: pass angles, 'uniform' or 'zeros'")
    # A stream of its own, so that neither kind nor rank changes the start.
    generator = torch.Generator().manual_seed(seed + 104729)
    return math.pi * (2 * torch.rand(n_places, n_angles, generator=generator) - 1)


def _check(
    n_places: int, n_angles: int, kind: str, gate: str, n_features: int | None, descriptors: Tensor | None
) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: unknown kind; choose one of {', '.join(map(repr, KINDS))}")
    if gate not in GATES:
        raise ValueError(f"gate={gate!r}: unknown gate; choose one of {', '.join(map(repr, GATES))}")
    if n_places < 1 or n_angles < 1:
        raise ValueError(f"AngleHypernet({n_places}, {n_angles}): places and angles are at least 1 each")
    if (n_features is not None) != (kind == "conditioned"):
        raise ValueError(f"kind={kind!r} with n_features={n_features}: pass it for 'conditioned' and only then")
    if (descriptors is not None) != (kind == "coordinates"):
        raise ValueError(f"kind={kind!r}: pass descriptors for 'coordinates' and only then")
    if descriptors is not None and (descriptors.ndim != 2 or len(descriptors) != n_angles):
        raise ValueError(f"descriptors of shape {tuple(descriptors.shape)}: one row per angle, ({n_angles}, S)")
