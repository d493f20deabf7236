"""What an adapter's circuits are worth on a device: the loss with shots and noise beside the loss of the simulator."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ketune.adapters.circuit_features import CircuitFeatures
from ketune.circuits import (
    CostEstimate,
    Device,
    DeviceError,
    NoiseModel,
    PauliChannel,
    QuantumLayer,
    cost_estimate,
    open_device,
)
from ketune.errors import DataError, ModelError
from ketune.finetuning.base import prepare_tokenizer
from ketune.finetuning.circuits_on import TokenRunner, circuit_modules, circuits_on
from ketune.finetuning.data import DEFAULT_SOURCE, TaskData, load_task
from ketune.finetuning.encoding import Encoder, collate
from ketune.finetuning.metrics import completion_nats, effective_max_length, evaluating
from ketune.finetuning.trained import load_either

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerBase

N_PROMPTS = 2
MAX_LENGTH = 64


@dataclass(frozen=True)
class DevicePoint:
    """The loss at one setting of the device.

    Attributes:
        noise: depolarising strength after gates on two wires; 0 for none that we added.
        shots: measurements of each circuit; None for exact values.
        loss: nats per token of the completions.
        change: `loss` less the loss of the simulator on the same tokens.
        seconds: that it took here.
    """

    noise: float
    shots: int | None
    loss: float
    change: float
    seconds: float


@dataclass(frozen=True)
class DeviceEvaluation:
    """Losses of an adapter whose circuits ran on a device.

    Attributes:
        model, data, split: what was scored.
        device: on which device.
        n_rows: rows that were scored.
        n_tokens: tokens of the completions.
        n_circuits: circuits of all points together.
        exact_loss: the loss of the simulator.
        points: the losses of the device.
        notes: what a reader should know.
    """

    model: str
    data: str
    split: str
    device: str
    n_rows: int
    n_tokens: int
    n_circuits: int
    exact_loss: float
    points: list[DevicePoint]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class DevicePlan:
    """An evaluation that is counted and not run yet; `plan_on_device` makes it, `run` runs it.

    Attributes:
        estimates: for each pair of a noise strength and a number of shots, what it takes.
        is_hardware: whether running costs the time of a machine that others use.
    """

    estimates: dict[tuple[float, int | None], CostEstimate]
    is_hardware: bool
    name: str
    data: TaskData
    split: str
    model: torch.nn.Module
    batch: dict[str, torch.Tensor]
    devices: dict[float, Device]
    runner_options: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def n_circuits(self) -> int:
        """Circuits of all points."""
        return sum(estimate.n_circuits for estimate in self.estimates.values())

    def run(self) -> DeviceEvaluation:
        """Scores the rows with the simulator, then at each point with the device."""
        n_tokens = int((self.batch["labels"][:, 1:] >= 0).sum())
        with evaluating(self.model):
            exact = completion_nats(self.model, self.batch).item() / n_tokens
            points = []
            for noise, shots in self.estimates:
                start = time.perf_counter()
                counted = self.batch["attention_mask"].bool()
                runner = TokenRunner(self.devices[noise], counted, shots=shots, gradient=None, **self.runner_options)
                with circuits_on(self.model, runner):
                    loss = completion_nats(self.model, self.batch).item() / n_tokens
                points.append(DevicePoint(noise, shots, loss, loss - exact, time.perf_counter() - start))
        device = next(iter(self.devices.values())).name
        n_rows = len(self.batch["labels"])
        return DeviceEvaluation(
            self.name, self.data.name, self.split, device, n_rows, n_tokens, self.n_circuits, exact, points, self.notes
        )


def plan_on_device(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    *,
    device: str = "aer",
    shots: Sequence[int | None] = (None,),
    noise: Sequence[float] = (0.0,),
    n_prompts: int = N_PROMPTS,
    max_length: int | None = MAX_LENGTH,
    split: str = "test",
    loading: str = "free",
    mitigate_readout: bool = False,
    seed: int = 0,
    name: str = "",
) -> DevicePlan:
    """Counts what scoring an adapter with its circuits on a device will take; nothing is run on it yet.

    Each token of each row is one circuit in each adapted layer and each measurement setting, so rows are few and short
    by default. The circuits of a layer go to the device together, because the next layer waits for them.

    Args:
        model: with an adapter whose circuits read its input: QAA, QTHA, a circuit head.
        tokenizer: the model's.
        data: the task; the first rows of a split are taken.
        device: a name for `open_device`.
        shots: numbers of measurements of each circuit; None for exact values.
        noise: depolarising strengths after gates on two wires, `PauliChannel.depolarising`; only on "aer".
        n_prompts: rows to score.
        max_length: longest row in tokens; prompts are cut from the left.
        split: "train", "validation" or "test".
        loading: on "aer", "free": activations are loaded without errors; "gates": by gates that make them too.
        mitigate_readout: as `DeviceRunner`.
        seed: of simulated shots.
        name: of the model, for the result.

    Raises:
        DeviceError: for a device that cannot do this, or noise on another device than "aer".
        ModelError: for a model without circuits that read its input.
        DataError: when no row fits.
    """
    if n_prompts < 1:
        raise DeviceError(f"n_prompts={n_prompts}: score at least 1")
    if not shots or not noise:
        raise DeviceError("shots=() or noise=(): name at least one of each")
    modules = [module for _, _, module in circuit_modules(model)]
    if not modules:
        raise ModelError(
            "the adapter has no circuit that reads its input, so nothing can run on a device; "
            "train one with method qaa or qtha"
        )
    devices = {strength: _noisy_device(device, strength, loading) for strength in noise}
    rows = getattr(data.render(tokenizer), split)
    rows = rows.select(range(min(n_prompts, len(rows))))
    encoder = Encoder(prepare_tokenizer(tokenizer), effective_max_length(model, max_length))
    sequences, report = encoder.encode_rows(list(zip(rows["prompt"], rows["completion"])))
    if not sequences:
        raise DataError(f"no row of {split} fits into max_length={max_length} tokens; pass more")
    place = next(model.parameters()).device
    assert isinstance(tokenizer.pad_token_id, int)
    batch = {key: value.to(place) for key, value in collate(sequences, tokenizer.pad_token_id).items()}
    n_samples = int(batch["attention_mask"].sum())
    layers = [_as_layer(module) for module in modules]
    estimates = {
        (strength, count): cost_estimate(layers, devices[strength], n_samples, count, mitigate_readout=mitigate_readout)
        for strength in noise
        for count in shots
    }
    opened = next(iter(devices.values()))
    notes = [f"{len(layers)} layers with circuits, {n_samples} tokens"]
    if report.n_truncated or report.n_dropped:
        notes.append(f"{report.n_truncated} prompts cut and {report.n_dropped} rows left out at {max_length} tokens")
    if any(noise):
        notes.append("noise: depolarising after gates on two wires; activations are loaded " + _LOADING_WORDS[loading])
    options = {"mitigate_readout": mitigate_readout, "seed": None if opened.is_hardware else seed}
    return DevicePlan(estimates, opened.is_hardware, name, data, split, model, batch, devices, options, notes)


_LOADING_WORDS = {"free": "without errors", "gates": "by gates that make errors too"}


def plan_saved(
    adapter: str | Path | None,
    model: str | Path | None,
    data: str | Path = DEFAULT_SOURCE,
    *,
    split: str = "test",
    data_options: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    torch_device: str = "auto",
    trust_remote_code: bool = False,
    **options: Any,
) -> DevicePlan:
    """`plan_on_device` for a saved adapter and a source of data.

    Args:
        adapter, model, dtype, torch_device, trust_remote_code: as in `load_either`.
        data: a source for `load_task`; `data_options` are its further arguments.
        split: which rows.
        options: further arguments of `plan_on_device`.

    Raises:
        KetuneError: as in `load_either`, `load_task` and `plan_on_device`.
    """
    task = load_task(data, **(data_options or {}))
    loaded, tokenizer = load_either(
        adapter, model, dtype=dtype, device=torch_device, trust_remote_code=trust_remote_code
    )
    return plan_on_device(loaded, tokenizer, task, split=split, name=str(adapter or model), **options)


def _as_layer(module: CircuitFeatures | QuantumLayer) -> QuantumLayer:
    if isinstance(module, QuantumLayer):
        return module
    return QuantumLayer(module.circuit, "amplitude", module.readout)


def _noisy_device(device: str, strength: float, loading: str) -> Device:
    if device == "aer":
        noise = NoiseModel(two_wire=(PauliChannel.depolarising(strength),)) if strength else None
        return open_device("aer", noise=noise, loading=loading)
    if strength:
        raise DeviceError(f"noise={strength} on {device!r}: only 'aer' takes noise; other devices bring their own")
    return open_device(device)


def noise_figure(found: DeviceEvaluation) -> Figure:
    """The change of the loss against the noise, a line for each number of shots."""
    from ketune.pictures import MARKERS, colour_of, drawing, new_axes

    with drawing():
        figure, axes = new_axes("depolarising strength after gates on two wires", "change of the loss, nats per token")
        for number, shots in enumerate(dict.fromkeys(point.shots for point in found.points)):
            line = [(point.noise, point.change) for point in found.points if point.shots == shots]
            label = "exact" if shots is None else f"{shots:,} shots"
            axes.plot(*zip(*sorted(line)), marker=MARKERS[number % len(MARKERS)], color=colour_of(number), label=label)
        axes.axhline(0, color="#808890", linewidth=0.8)
        axes.legend(frameon=False)
    return figure
