"""Superpositional gradient descent: AdamW whose step a small quantum circuit bends, and classical noise to match it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.optimizer import ParamsT

from ketune.circuits import MAX_WIRES, Circuit, run

SCOPES = ("tensor", "global", "all")
PERTURBATIONS = ("circuit", "random_sign", "gaussian")


class SuperpositionalAdamW(AdamW):
    """AdamW with a perturbation from a quantum circuit: `theta -= lr (adamw step + strength Q)`.

    The published rule is `Q_i = sin(pi theta_i) g_i` on the first `n_qubits` coordinates and 0 elsewhere, g being the
    gradient. It is a circuit in closed form: RY(pi theta_i) turns |0> into a state of <X_i> = sin(pi theta_i). So in
    general `Q_i = <X_i> g_i` in the state `circuit (x)_i RY(pi theta_i) |0>`; without a circuit the sine is taken.

    It is Adam's size of step (about 1) against the gradient's own size, so with small gradients Q is nearly nothing,
    and for theta_i < 0 it points *up* the gradient. The publication reports gains, with one seed and without tuning;
    treat them as unproven, and run the two controls beside: `perturbation="random_sign"` has the sine's size and a
    random sign, `"gaussian"` replaces the sine by normal noise of the same mean square.

    With `strength=0` this is `torch.optim.AdamW` to the last bit. Learning-rate schedulers, gradient clipping,
    parameter groups (each with its own `strength`) and checkpoints work as for AdamW. In Hugging Face's trainers:

        SFTTrainer(..., optimizer_cls_and_kwargs=(SuperpositionalAdamW, {"lr": 1e-3, "strength": 0.5}))

    Args:
        params: parameters or groups of parameters.
        lr: learning rate.
        strength: lambda of the paper (there 0.1 and 0.5).
        n_qubits: how many coordinates a circuit sees; the paper always takes 4.
        scope: which coordinates are bent:

            - "tensor": the first `n_qubits` of each parameter (the paper leaves this open; our reading);
            - "global": the first `n_qubits` of all parameters together;
            - "all": every one, `n_qubits` at a time.
        perturbation: "circuit", or a control: "random_sign", "gaussian".
        circuit: on `n_qubits` wires, after the encoding; None: the closed form.
        circuit_angles: (circuit.n_angles,) its fixed angles; None: drawn uniformly from [-pi, pi) by `seed`.
        seed: of the controls and of the circuit's angles.
        kwargs: further arguments of AdamW: `betas`, `eps`, `weight_decay` (0 here by default), `fused`, ...

    Raises:
        ValueError: for settings out of range, or a circuit on another number of wires.

    Source: Pamuk, Özdemir, Kocabay, "Superpositional gradient descent", arXiv 2511.01918, equations 1 and 2. Bias
    correction and decoupled decay, on which the paper is silent, are AdamW's. The circuit in the general form is ours.

    Example:
        >>> import torch
        >>> angles = torch.nn.Parameter(torch.tensor([0.3, -0.2]))
        >>> optimizer = SuperpositionalAdamW([angles], lr=0.05, strength=0.5)
        >>> for _ in range(300):
        ...     optimizer.zero_grad()
        ...     loss = angles.cos().sum()
        ...     loss.backward()
        ...     loss = optimizer.step()
        >>> bool(angles.detach().cos().sum() < -1.99)
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        strength: float = 0.1,
        n_qubits: int = 4,
        scope: str = "tensor",
        perturbation: str = "circuit",
        circuit: Circuit | None = None,
        circuit_angles: Tensor | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        for name, value, allowed in (("scope", scope, SCOPES), ("perturbation", perturbation, PERTURBATIONS)):
            if value not in allowed:
                raise ValueError(
                    f"SuperpositionalAdamW({name}={value!r}): choose one of {', '.join(map(repr, allowed))}"
                )
        if not 1 <= n_qubits <= MAX_WIRES:
            raise ValueError(f"SuperpositionalAdamW(n_qubits={n_qubits}): choose 1 to {MAX_WIRES}")
        if circuit is not None and circuit.n_wires != n_qubits:
            raise ValueError(
                f"SuperpositionalAdamW(circuit=...): it has {circuit.n_wires} wires; pass n_qubits={circuit.n_wires}"
            )
        if circuit_angles is not None and (circuit is None or circuit_angles.shape != (circuit.n_angles,)):
            raise ValueError(
                f"SuperpositionalAdamW(circuit_angles of shape {tuple(circuit_angles.shape)}): pass one angle for each "
                "of the circuit's, and the circuit"
            )
        self.n_qubits, self.scope, self.perturbation, self.seed = n_qubits, scope, perturbation, seed
        self.circuit = circuit
        self._words = ["I" * k + "X" + "I" * (n_qubits - k - 1) for k in range(n_qubits)]
        if circuit is not None and circuit_angles is None:
            generator = torch.Generator().manual_seed(seed)
            circuit_angles = math.pi * (2 * torch.rand(circuit.n_angles, generator=generator) - 1)
        self.circuit_angles = circuit_angles
        options: dict[str, Any] = {"weight_decay": 0.0} | kwargs
        super().__init__(params, lr, **options)
        self.defaults["strength"] = strength
        for group in self.param_groups:
            group.setdefault("strength", strength)
            _check_strength(group)
        self.param_groups[0].setdefault("n_steps", 0)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if "strength" in self.param_groups[-1]:
            _check_strength(self.param_groups[-1])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; `closure`, if given, evaluates the loss anew and its value is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        bends = list(self._bends())
        super().step()
        for coordinates, bend, factor in bends:
            coordinates.subtract(bend * factor)
        self.param_groups[0]["n_steps"] = self.param_groups[0].get("n_steps", 0) + 1
        return loss

    def _bends(self) -> Iterator[tuple[_Coordinates, Tensor, Any]]:
        """Of each tensor that is bent: its coordinates, Q there, and what it is multiplied with."""
        left = self.n_qubits
        for index, (group, parameter) in enumerate((g, p) for g in self.param_groups for p in g["params"]):
            count = parameter.numel()
            if self.scope != "all":
                count = min(count, left if self.scope == "global" else self.n_qubits)
            left -= count
            if parameter.grad is None or count == 0 or not group["strength"]:
                continue
            coordinates = _Coordinates(parameter, count)
            bend = self._factor(coordinates.of(parameter), index) * coordinates.of(parameter.grad)
            yield coordinates, bend, group["lr"] * group["strength"]

    def _factor(self, theta: Tensor, index: int) -> Tensor:
        """What multiplies the gradient at coordinates theta (n,) of parameter `index`."""
        if self.perturbation == "circuit" and self.circuit is not None:
            return self._read(theta)
        sine = (math.pi * theta).sin()
        if self.perturbation == "circuit":
            return sine
        key = f"superpositional/{self.seed}/{self.param_groups[0].get('n_steps', 0)}/{index}"
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1)
        if self.perturbation == "random_sign":
            signs = torch.randint(0, 2, sine.shape, generator=generator).to(sine) * 2 - 1
            return signs * sine.abs()
        return sine.square().mean().sqrt() * torch.randn(sine.shape, generator=generator).to(sine)

    def _read(self, theta: Tensor) -> Tensor:
        """<X_i> after the circuit, `n_qubits` coordinates at a time; the last ones are filled up with zeros."""
        assert self.circuit is not None
        assert self.circuit_angles is not None
        missing = -len(theta) % self.n_qubits
        rows = torch.nn.functional.pad(math.pi * theta, (0, missing)).view(-1, self.n_qubits)
        angles = self.circuit_angles.to(rows)
        return run(self.circuit, rows, angles, encoding="angle", readout=self._words).flatten()[: len(theta)]


class _Coordinates:
    """The first entries of a parameter in row-major order, to read and to subtract from."""

    def __init__(self, parameter: Tensor, count: int) -> None:
        self.parameter, self.count = parameter, count
        # A parameter stored in another order has no flat view.
        self.where = None
        if not parameter.is_contiguous():
            self.where = torch.unravel_index(torch.arange(count, device=parameter.device), parameter.shape)

    def of(self, tensor: Tensor) -> Tensor:
        """The entries (count,) of a tensor of the parameter's shape, in float32 or better."""
        return _lifted(tensor.reshape(-1)[: self.count] if self.where is None else tensor[self.where])

    def subtract(self, amount: Tensor) -> None:
        if self.where is None:
            self.parameter.view(-1)[: self.count].sub_(amount)  # rounded once, whatever the parameter's type
        else:
            self.parameter[self.where] = (self.of(self.parameter) - amount).to(self.parameter.dtype)


def _lifted(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _check_strength(group: dict[str, Any]) -> None:
    if not math.isfinite(group["strength"]):
        raise ValueError(f"SuperpositionalAdamW(strength={group['strength']}): choose a finite number; 0 is AdamW")
