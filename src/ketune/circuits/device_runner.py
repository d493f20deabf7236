"""`DeviceRunner`: `run` on a device, with shots, readout mitigation and gradients by the parameter shift."""

from __future__ import annotations

import torch
from torch import Tensor

from ketune.circuits._device import MAX_DEVICE_WIRES, Device, DeviceError, RunOptions
from ketune.circuits._device_gradients import ShiftedCircuits
from ketune.circuits._device_programs import (
    LoadedCircuit,
    MeasuredReadout,
    encoded_features,
    loaded_circuit,
    measured_readout,
    starting_states,
)
from ketune.circuits._readout_mitigation import ReadoutCalibration
from ketune.circuits._shift_rules import shift_rule
from ketune.circuits.circuit import Circuit
from ketune.circuits.devices import open_device
from ketune.circuits.observables import ENCODINGS, Readout

GRADIENTS = ("parameter_shift",)
CALIBRATION_FACTOR = 10
"""Shots of a calibration circuit for each shot of another one: its error enters every result."""


class DeviceRunner:
    """Runs circuits on a device; called as `run` is.

    What is differentiable. Angles are, once, by the parameter shift, and so are features that are angles (encodings
    "angle" and "iqp", and angles with leading dimensions). Features of amplitude encoding are not: the circuit that
    prepares a state changes with the state in no simple way. A call that would need their gradient is refused.

    Args:
        device: a name for `open_device`, a `Device`, a Qiskit backend or a PennyLane device.
        shots: measurements of each circuit in each setting; exact values when None, where the device can.
        mitigate_readout: measure how qubits are misread, once, and take it out of the results.
        optimization_level: of Qiskit's transpiler, 0 to 3.
        seed: repeats simulated shots; calls differ from each other, the whole sequence repeats. None for no seed.
        gradient: "parameter_shift", or None for results without gradients.

    Raises:
        DeviceError: for an unknown gradient, or as `open_device`.

    Example:
        >>> import torch
        >>> from ketune.circuits import DeviceRunner, ry_ring
        >>> on_device = DeviceRunner("statevector")
        >>> on_device(ry_ring(2), None, torch.tensor([0.0, torch.pi])).round()
        tensor([ 1., -1.])
    """

    def __init__(
        self,
        device: Device | str | object,
        *,
        shots: int | None = None,
        mitigate_readout: bool = False,
        optimization_level: int = 1,
        seed: int | None = None,
        gradient: str | None = "parameter_shift",
    ) -> None:
        if gradient is not None and gradient not in GRADIENTS:
            raise DeviceError(f"gradient={gradient!r}: choose 'parameter_shift' or None")
        self.device = open_device(device)
        self.shots, self.optimization_level, self.gradient = shots, optimization_level, gradient
        self.calibration = ReadoutCalibration() if mitigate_readout else None
        self._seeds = None if seed is None else torch.Generator().manual_seed(seed)
        self.device.check((), self.options(None))

    def options(self, seed: int | None, factor: int = 1) -> RunOptions:
        """How a job is run."""
        shots = None if self.shots is None else factor * self.shots
        return RunOptions(shots, seed, self.optimization_level)

    def __call__(
        self,
        circuit: Circuit,
        x: Tensor | None,
        angles: Tensor,
        *,
        encoding: str = "amplitude",
        readout: Readout = "pauli_z",
        n_readouts: int | None = None,
        n_repeats: int = 1,
        matmul_precision: str = "highest",
    ) -> Tensor:
        """Runs a circuit on a batch of feature vectors, as `ketune.circuits.run`.

        Args:
            circuit: the circuit, up to 20 wires.
            x: (..., n_features) features; |0...0> when None.
            angles: (..., n_angles) angles in radians; leading dimensions broadcast with those of the features.
            encoding: as `run`. Amplitudes are prepared by Qiskit's `StatePreparation` or PennyLane's `StatePrep`.
            readout: as `run`, but for "amplitudes"; words measured in one setting share their shots.
            n_readouts: None, as only readout "amplitudes" takes it.
            n_repeats: as `run`.
            matmul_precision: of no meaning here.

        Returns:
            (..., k) readouts on the device and in the type that `run` would give.

        Raises:
            DeviceError: for what the device cannot do, or features whose gradient it cannot give.
            ValueError: as `run`.
        """
        measured = measured_readout(readout, circuit.n_wires)
        if angles.ndim == 0 or angles.shape[-1] != circuit.n_angles:
            raise ValueError(f"angles have shape {tuple(angles.shape)}; this circuit takes (..., {circuit.n_angles})")
        if circuit.n_wires > MAX_DEVICE_WIRES:
            raise DeviceError(f"the circuit has {circuit.n_wires} wires; at most {MAX_DEVICE_WIRES} are read")
        if x is not None:
            _check_features(x, circuit.n_wires, encoding)
        graph = torch.is_grad_enabled() and self.gradient is not None
        if graph and x is not None and encoding == "amplitude" and x.requires_grad:
            raise DeviceError(
                "features of amplitude encoding have no gradient on a device, and these need one: pass x.detach() to "
                "train the angles only, gradient=None for none, or encode features as angles"
            )
        dtype = torch.float64 if torch.float64 in (angles.dtype, getattr(x, "dtype", None)) else torch.float32
        loaded = loaded_circuit(circuit, None if x is None else encoding, 0 if x is None else x.shape[-1], n_repeats)
        batch, rows, states, zero = _rows(loaded, x, angles, encoding, circuit.n_wires)
        rules = [() for _ in loaded.sources]
        if graph:
            moving = ((x is not None and x.requires_grad), angles.requires_grad)
            names = loaded.gate_names()
            rules = [
                shift_rule(name) if moving[source >= loaded.n_encoded] else ()
                for name, source in zip(names, loaded.sources)
            ]

        def evaluate(turned: Tensor, starts: Tensor | None) -> Tensor:
            return self._values(measured, loaded, turned, starts)

        with torch.set_grad_enabled(graph):
            out = ShiftedCircuits.apply(rows, states, evaluate, rules)
        assert isinstance(out, Tensor)
        if zero is not None:
            out = torch.where(zero[:, None], 0.0, out)
        return out.view(*batch, out.shape[-1]).to(angles.device, dtype)

    def _values(
        self, measured: MeasuredReadout, loaded: LoadedCircuit, angles: Tensor, states: Tensor | None
    ) -> Tensor:
        programs = measured.programs(loaded, angles, states)
        if not len(angles):
            empty = torch.zeros(0, 2**measured.n_wires, dtype=torch.float64)
            return measured.values([empty] * len(programs))
        options = self.options(self._draw())
        chances = self.device.measure(programs, options)
        if self.calibration is not None:
            options = self.options(self._draw(), CALIBRATION_FACTOR)
            chances = [
                self.calibration.corrected(self.device, program, each, options)
                for program, each in zip(programs, chances)
            ]
        return measured.values(chances)

    def _draw(self) -> int | None:
        if self._seeds is None:
            return None
        return int(torch.randint(2**31 - 1, (), generator=self._seeds))


def _check_features(x: Tensor, n_wires: int, encoding: str) -> None:
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding={encoding!r}: unknown encoding; choose one of {', '.join(map(repr, ENCODINGS))}")
    largest = 2**n_wires if encoding == "amplitude" else n_wires
    n_features = x.shape[-1] if x.ndim else 0
    if not 1 <= n_features <= largest:
        raise ValueError(f"{n_features} features: {encoding} encoding on {n_wires} wires takes 1 to {largest}")


def _rows(
    loaded: LoadedCircuit, x: Tensor | None, angles: Tensor, encoding: str, n_wires: int
) -> tuple[torch.Size, Tensor, Tensor | None, Tensor | None]:
    """The batch's shape, and for each of its rows the angles of all gates, the state to start from, and zeros."""
    batch = angles.shape[:-1] if x is None else torch.broadcast_shapes(x.shape[:-1], angles.shape[:-1])
    every = angles.cpu().double().expand(*batch, -1)
    states = zero = None
    if x is not None and encoding == "amplitude":
        states, zero = starting_states(x.expand(*batch, -1).reshape(-1, x.shape[-1]), n_wires)
    elif x is not None:
        every = torch.cat((encoded_features(x, encoding).cpu().double().expand(*batch, -1), every), -1)
    rows = every[..., list(loaded.sources)].reshape(batch.numel(), len(loaded.sources))
    return batch, rows, states, zero
