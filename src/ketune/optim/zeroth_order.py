"""Gradient descent from losses alone: two forward passes per step, noise that a seed rebuilds, no state (MeZO)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

Scale = Callable[[torch.nn.Parameter], "float | torch.Tensor"]
MASTER_DTYPES = (torch.float32, torch.float64)
# Numbers of noise that exist at once: 4 MB of float32 on a CPU; on a GPU few enough launches for billions of weights.
CHUNK = {"cpu": 2**20, "cuda": 2**22}


class ZerothOrder(Optimizer):
    """Gradient descent along random directions, whose slopes are measured by two losses each.

    A probe draws u ~ N(0, I), measures L(W + eps s u) and L(W - eps s u), and puts W back. Its projected gradient is
    g = (L+ - L-) / (2 eps), and the step is W <- W - lr (mean over the probes of g s u) - lr weight_decay W. Here s is
    the scale of a parameter (1 unless `scale_of` is given): this is plain descent in the coordinates W / s.

    Noise is never stored: generators of each parameter's own, seeded by `seed`, the number of steps taken, the probe
    and the parameter's place, draw it again, a chunk at a time. Beside the weights a step holds one chunk (4 MB on a
    CPU, 16 MB on a GPU) and whatever the forward pass needs. There is no state but `seed` and `n_steps`.

    Weights are moved in place. Adding and subtracting the same noise leaves a float32 weight within rounding of where
    it was: 200 cycles move it by 1e-6 of its size, in random directions. In bfloat16 it would be 5 %, so parameters
    must be float32 or float64: keep a float32 master and round it in the forward pass. The loss should be computed in
    float32 too, as the difference of two nearly equal numbers is taken.

    Two ways to step:

    - `step(closure)`, where the closure returns the loss and calls no `backward()`;
    - `measure(closure)` once per micro-batch, as one would call `backward()`, then `step()`: measurements between two
      steps share their directions and add up. `ketune.finetuning`'s trainers do this.

    The closure must be a function of the weights alone: the same batch and no dropout (`model.eval()`) both times. In
    several processes it must return the same number everywhere, such as the mean over all batches.

    Args:
        params: parameters or groups of parameters, which may have their own `lr` and `weight_decay`. They need not
            require gradients.
        lr: learning rate. The mean of g u has the gradient as its expectation, but a norm about sqrt(n / n_probes)
            times larger, n being the number of trained weights; so rates are far smaller than those of backpropagation.
        epsilon: length of the perturbation (eps) of each weight, in units of s.
        n_probes: directions per step; each costs two evaluations of the closure.
        clip: bound on |L+ - L-| / 2, that is, g is clipped to +-clip / epsilon; None: no bound.
        weight_decay: decoupled, as in AdamW.
        seed: of all noise.
        scale_of: gives s for a parameter: a number, or a tensor of shape (rows, groups), where `rows` is the
            parameter's first dimension and `groups` equal pieces make up the rest of a row. For a quantised weight: its
            step. Asked once per step, before any weight moves.

    Attributes:
        n_steps: steps taken.
        projected_gradients: g of each probe of the last step, after clipping. A probe whose losses are not both finite
            has NaN here and moves nothing.

    Source: MeZO (Malladi et al., NeurIPS 2023, arXiv 2305.17333), as ZeroQAT (arXiv 2509.00031, eq. 2 and 3) uses it;
    clipping and averaging of probes are those of ZeroQAT's released code. The scale is ours.

    Raises:
        ValueError: for settings out of range, and parameters that are not float32 or float64 or are sharded.

    >>> weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    >>> optimizer = ZerothOrder([weight], lr=0.1, clip=None)
    >>> for _ in range(200):
    ...     loss = optimizer.step(lambda: weight.square().sum())
    >>> bool(loss < 1e-4)
    True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-6,
        *,
        epsilon: float = 1e-3,
        n_probes: int = 1,
        clip: float | None = 0.2,
        weight_decay: float = 0.0,
        seed: int = 0,
        scale_of: Scale | None = None,
    ) -> None:
        for name, value, is_right, allowed in (
            ("lr", lr, lr >= 0, "zero or more"),
            ("epsilon", epsilon, 0 < epsilon < math.inf, "above zero and finite"),
            ("n_probes", n_probes, n_probes >= 1 and n_probes == int(n_probes), "a whole number of 1 or more"),
            ("clip", clip, clip is None or clip > 0, "None or above zero"),
            ("weight_decay", weight_decay, weight_decay >= 0, "zero or more"),
        ):
            if not is_right:
                raise ValueError(f"ZerothOrder({name}={value}): must be {allowed}")
        self.epsilon = epsilon
        self.n_probes = int(n_probes)
        self.clip = clip
        self.seed = seed
        self.scale_of = scale_of
        self.n_steps = 0
        self.projected_gradients: list[float] = []
        self._differences: list[float] | None = None  # (L+ - L-) / 2 of each probe since the last step
        self._scales: list[float | torch.Tensor] = []
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.dtype not in MASTER_DTYPES:
                raise ValueError(
                    f"ZerothOrder: a parameter of shape {tuple(p.shape)} is {p.dtype}, in which a perturbation cannot "
                    "be undone and a small step rounds away; train a float32 master (`model.float()`, or for a "
                    "quantised model its full-precision weights)"
                )
            if hasattr(p, "device_mesh"):
                raise ValueError(
                    f"ZerothOrder: a parameter of shape {tuple(p.shape)} is sharded (DTensor), and every shard would "
                    "get the same noise; use data parallelism without sharding: there is no state to shard"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float | torch.Tensor] | None = None) -> float | None:  # pyright: ignore
        """Takes one step.

        Args:
            closure: returns the loss; evaluated 2 `n_probes` times without gradients. None: use what `measure` found.

        Returns:
            The mean of the losses measured around W, which is L(W) up to O(eps^2); None without a closure.

        Raises:
            RuntimeError: if the closure calls `backward()`, or nothing was measured.
            TypeError: if the closure does not return one number.
        """
        if closure is not None:
            self.zero_grad()
        loss = self.measure(closure) if closure is not None else None
        if self._differences is None:
            raise RuntimeError(
                "ZerothOrder.step(): there is nothing to step along; pass a closure that returns the loss and calls no "
                "backward(), or call measure(closure) before. In place of Hugging Face's Trainer, use "
                "ketune.finetuning.zeroth_order.ZerothOrderTrainer"
            )
        self.projected_gradients = [self._slope(difference) for difference in self._differences]
        for group in self.param_groups:
            if group["weight_decay"]:
                torch._foreach_mul_(group["params"], 1 - group["lr"] * group["weight_decay"])
        for probe, slope in enumerate(self.projected_gradients):
            if math.isfinite(slope):
                self._shift(probe, [-group["lr"] * slope / self.n_probes for group in self.param_groups])
        self.n_steps += 1
        self.zero_grad()
        return loss

    @torch.no_grad()
    def measure(self, closure: Callable[[], float | torch.Tensor]) -> float:
        """Measures the loss on both sides of the weights along each probe, and puts the weights back.

        Called several times before a step, the differences add up, as gradients do: let each closure return its share
        of the loss.

        Returns:
            The mean of the measured losses.

        Raises:
            RuntimeError, TypeError: as for `step`. The weights are put back first.
        """
        if not self._scales:
            self._scales = [1.0 if self.scale_of is None else self._checked_scale(p) for p in self._parameters()]
        losses: list[tuple[float, float]] = []
        for probe in range(self.n_probes):
            offset = 0.0
            pair = []
            try:
                for side in (self.epsilon, -self.epsilon):
                    self._shift(probe, [side - offset] * len(self.param_groups))
                    offset = side
                    pair.append(self._evaluate(closure))
            finally:
                self._shift(probe, [-offset] * len(self.param_groups))
            losses.append((pair[0], pair[1]))
        before = self._differences or [0.0] * self.n_probes
        self._differences = [d + (above - below) / 2 for d, (above, below) in zip(before, losses)]
        return sum(map(sum, losses)) / (2 * self.n_probes)

    def direction(self, parameter: torch.nn.Parameter, probe: int = 0) -> torch.Tensor:
        """The direction s u in which the next `measure` moves a parameter, of its shape; for tests and studies.

        Raises:
            ValueError: if the parameter is in no group.
        """
        for index, p in enumerate(self._parameters()):
            if p is parameter:
                scale = 1.0 if self.scale_of is None else self._checked_scale(p)
                pieces = [piece.clone() for _, piece in self._noise(p, index, probe, scale)]
                return torch.cat(pieces).view_as(p) if pieces else torch.zeros_like(p)
        raise ValueError(f"ZerothOrder.direction: the parameter of shape {tuple(parameter.shape)} is in no group")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets what was measured since the last step."""
        self._differences, self._scales = None, []

    def state_dict(self) -> dict[str, Any]:
        """The groups' settings, `seed` and `n_steps`: all that the noise of the next step depends on."""
        return {**super().state_dict(), "seed": self.seed, "n_steps": self.n_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes on the settings, the seed and the number of steps of a saved optimiser."""
        rest = dict(state_dict)
        self.seed, self.n_steps = int(rest.pop("seed", self.seed)), int(rest.pop("n_steps", 0))
        super().load_state_dict(rest)
        self.zero_grad()

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        return (p for group in self.param_groups for p in group["params"])

    def _slope(self, difference: float) -> float:
        if not math.isfinite(difference):
            return math.nan
        bound = math.inf if self.clip is None else self.clip
        return max(-bound, min(bound, difference)) / self.epsilon

    def _evaluate(self, closure: Callable[[], float | torch.Tensor]) -> float:
        try:
            loss = closure()
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise RuntimeError(
                "ZerothOrder: the closure calls backward(); it must only return the loss, as gradients are measured"
            ) from error
        if any(p.grad is not None for p in self._parameters()):
            raise RuntimeError(
                "ZerothOrder: there are gradients on the parameters; the closure must not call backward(), and "
                "`parameter.grad` must be None"
            )
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            return loss.item()
        if isinstance(loss, int | float):
            return float(loss)
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise TypeError(f"ZerothOrder: the closure returned {got}; it must return the loss, one number")

    def _checked_scale(self, p: torch.nn.Parameter) -> float | torch.Tensor:
        assert self.scale_of is not None
        scale = self.scale_of(p)
        if not isinstance(scale, torch.Tensor):
            return float(scale)
        rows, columns = (p.shape[0], p[0].numel()) if p.dim() and p.numel() else (1, p.numel())
        if scale.dim() != 2 or scale.shape[0] != rows or columns % max(scale.shape[1], 1):
            raise ValueError(
                f"ZerothOrder(scale_of=...): got shape {tuple(scale.shape)} for a parameter of shape {tuple(p.shape)}; "
                f"give a number, or shape ({rows}, groups) where groups divides {columns}"
            )
        return scale.detach().to(p.device, p.dtype)

    def _shift(self, probe: int, factors: Sequence[float]) -> None:
        """Adds, to the parameters of each group, the group's factor times a probe's direction."""
        index = 0
        for group, factor in zip(self.param_groups, factors):
            for p in group["params"]:
                if factor:
                    for rows, noise in self._noise(p, index, probe, self._scales[index]):
                        _rows_of(p)[rows].add_(noise, alpha=factor)
                index += 1

    def _noise(
        self, p: torch.nn.Parameter, index: int, probe: int, scale: float | torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields s u of a parameter as (rows, values), in one buffer that each piece overwrites."""
        if not p.numel():
            return
        shape = _rows_of(p).shape
        columns = p.numel() // shape[0]
        n_rows = min(shape[0], max(1, CHUNK.get(p.device.type, CHUNK["cpu"]) // columns))
        buffer = torch.empty(n_rows * columns, dtype=p.dtype, device=p.device)
        generator = torch.Generator(p.device).manual_seed(_mixed(self.seed, self.n_steps, probe, index))
        for start in range(0, shape[0], n_rows):
            rows = slice(start, min(start + n_rows, shape[0]))
            noise = buffer[: (rows.stop - start) * columns].normal_(generator=generator)
            if isinstance(scale, torch.Tensor):
                noise.view(rows.stop - start, scale.shape[1], -1).mul_(scale[rows].unsqueeze(-1))
            elif scale != 1.0:
                noise.mul_(scale)
            yield rows, noise.view(-1, *shape[1:])


def _rows_of(p: torch.Tensor) -> torch.Tensor:
    """A view with at least one dimension; in rows, so that a transposed parameter needs no copy."""
    return p.detach() if p.dim() else p.detach().view(1)


def _mixed(*numbers: int) -> int:
    """A seed that is unrelated for any two tuples of numbers; CPU generators read its lower 32 bits only."""
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
