"""`cost_estimate`: what running circuits on a device will take, before anything is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ketune.circuits._device import Device, DeviceError, RunOptions
from ketune.circuits._device_programs import LoadedCircuit, loaded_circuit, measured_readout
from ketune.circuits._shift_rules import shift_rule
from ketune.circuits.circuit import Circuit
from ketune.circuits.device_layer import DeviceLayer
from ketune.circuits.device_runner import CALIBRATION_FACTOR, GRADIENTS
from ketune.circuits.devices import open_device
from ketune.circuits.layer import REUPLOADING, QuantumLayer
from ketune.circuits.observables import Readout


@dataclass(frozen=True)
class CostEstimate:
    """What a run takes; `print` shows it in words.

    Attributes:
        device: name of the device.
        n_circuits: circuits to run, with all measurement settings, shifted angles and calibration.
        n_jobs: jobs that they are sent in.
        n_shots: measurements of all circuits together; 0 where values are exact.
        depth: time steps of the deepest circuit, in the device's own gates.
        n_two_wire_gates: gates on two wires of the circuit that has most.
        seconds: on the machine, without waiting for it; None where the device states no durations.
        reason: why there are no seconds.
    """

    device: str
    n_circuits: int
    n_jobs: int
    n_shots: int
    depth: int
    n_two_wire_gates: int
    seconds: float | None
    reason: str | None

    def __str__(self) -> str:
        shots = f"{self.n_shots:,} shots" if self.n_shots else "exact values, no shots"
        time = f"unknown ({self.reason})" if self.seconds is None else f"{self.seconds:.3g} s, without queues"
        return (
            f"{self.device}: {self.n_circuits:,} circuits in {self.n_jobs:,} jobs, {shots}; up to "
            f"{self.n_two_wire_gates:,} two-wire gates and depth {self.depth:,} each; time on the device: {time}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class _Task:
    circuit: Circuit
    encoding: str | None
    n_features: int
    n_repeats: int
    readout: Readout
    feature_angles: frozenset[int] = frozenset()


def cost_estimate(
    layer_or_circuits: QuantumLayer | DeviceLayer | Circuit | Sequence[QuantumLayer | Circuit],
    device: Device | str | object,
    n_samples: int,
    shots: int | None = None,
    *,
    gradient: str | None = None,
    feature_gradient: bool = False,
    mitigate_readout: bool = False,
    optimization_level: int = 1,
) -> CostEstimate:
    """Counts circuits, jobs and shots, and transpiles one circuit of each kind. Nothing is run.

    Args:
        layer_or_circuits: a layer, a circuit (read out by Pauli Z), or several of them, one after the other.
        device: as for `DeviceLayer`.
        n_samples: feature vectors, the size of the batch; each is a circuit in each measurement setting.
        shots: of each circuit; exact values when None.
        gradient: "parameter_shift" adds the circuits of one backward pass.
        feature_gradient: whether that passes on to features that are angles.
        mitigate_readout: adds the two circuits that calibrate the readout.
        optimization_level: of Qiskit's transpiler, 0 to 3.

    Returns:
        the estimate. Amplitude encoding is counted with a random state, as hard to prepare as states come, unless an
        "aer" device was opened with `loading="free"`.

    Raises:
        DeviceError: for what the device cannot run, or features of amplitude encoding that need a gradient.

    Example:
        >>> from ketune.circuits import QuantumLayer, cost_estimate, ryrz_ring_ry
        >>> layer = QuantumLayer(ryrz_ring_ry(3), "angle")
        >>> print(cost_estimate(layer, "statevector", 10, 100, gradient="parameter_shift"))  # doctest: +ELLIPSIS
        statevector: 190 circuits in 2 jobs, 19,000 shots; up to 3 two-wire gates and depth 8 each; time on ...
    """
    if n_samples < 1:
        raise DeviceError(f"n_samples={n_samples}: take at least 1")
    if gradient is not None and gradient not in GRADIENTS:
        raise DeviceError(f"gradient={gradient!r}: choose 'parameter_shift' or None")
    opened, options = open_device(device), RunOptions(shots, None, optimization_level)
    one_of_many = isinstance(layer_or_circuits, QuantumLayer | DeviceLayer | Circuit)
    everything = [layer_or_circuits] if one_of_many else list(layer_or_circuits)  # pyright: ignore[reportArgumentType]
    if not everything:
        raise DeviceError("cost_estimate([]): pass at least one layer or circuit")
    n_circuits = n_jobs = depth = pairs = 0
    seconds, reason = 0.0, None
    for entry in everything:
        task = _task(entry.layer if isinstance(entry, DeviceLayer) else entry)
        loaded = loaded_circuit(task.circuit, task.encoding, task.n_features, task.n_repeats)
        readout = measured_readout(task.readout, task.circuit.n_wires)
        forward = n_samples * len(readout.bases)
        backward = forward * _n_shifts(task, loaded, feature_gradient) if gradient else 0
        n_circuits += forward + backward
        n_jobs += math.ceil(forward / opened.max_circuits) + math.ceil(backward / opened.max_circuits)
        programs = readout.programs(loaded, *_example(task, loaded))
        opened.check(programs, options)
        for program in programs:
            profile = opened.profile(program, options)
            depth, pairs = max(depth, profile.depth), max(pairs, profile.n_two_wire_gates)
            seconds += (forward + backward) / len(programs) * (shots or 0) * (profile.seconds or 0.0)
            reason = profile.reason if profile.seconds is None else reason
    n_shots = n_circuits * (shots or 0)
    if mitigate_readout:
        n_circuits, n_jobs, n_shots = n_circuits + 2, n_jobs + 1, n_shots + 2 * CALIBRATION_FACTOR * (shots or 0)
    known = None if reason is not None else seconds
    return CostEstimate(opened.name, n_circuits, n_jobs, n_shots, depth, pairs, known, reason)


def _task(entry: QuantumLayer | Circuit) -> _Task:
    if isinstance(entry, Circuit):
        return _Task(entry, None, 0, 1, "pauli_z")
    if not isinstance(entry, QuantumLayer):
        raise DeviceError(f"cost_estimate of {type(entry).__name__}: pass QuantumLayer, DeviceLayer or Circuit")
    if entry.encoding != REUPLOADING:
        return _Task(entry.circuit, entry.encoding, entry.n_features, entry.n_repeats, entry.readout)
    assert isinstance(entry._sources, torch.Tensor)
    features = {place for place, source in enumerate(entry._sources.tolist()) if source < entry.n_features}
    return _Task(entry.circuit, None, 0, 1, entry.readout, frozenset(features))


def _n_shifts(task: _Task, loaded: LoadedCircuit, feature_gradient: bool) -> int:
    """Shifted circuits for each circuit of a forward pass."""
    if feature_gradient and task.encoding == "amplitude":
        raise DeviceError("features of amplitude encoding have no gradient on a device: leave feature_gradient out")
    total = 0
    for name, source in zip(loaded.gate_names(), loaded.sources):
        own = source - loaded.n_encoded
        is_feature = own < 0 or own in task.feature_angles
        if not is_feature or (feature_gradient and task.encoding != "basis"):
            total += len(shift_rule(name))
    return total


def _example(task: _Task, loaded: LoadedCircuit) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One row of angles and, for amplitude encoding, a state, drawn with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.randn(1, len(loaded.sources), dtype=torch.float64, generator=generator)
    if task.encoding != "amplitude":
        return angles, None
    state = torch.randn(1, 2**task.circuit.n_wires, dtype=torch.float64, generator=generator)
    state[:, task.n_features :] = 0
    return angles, state / state.norm()
