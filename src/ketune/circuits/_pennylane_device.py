"""Any PennyLane device: all rows of a program in one broadcast tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ketune.circuits._device import Device, DeviceError, Profile, Program, RunOptions
from ketune.circuits._optional import library
from ketune.circuits.export import to_pennylane

_SIMULATORS = ("default.", "lightning.", "null.", "reference.", "qiskit.aer", "qiskit.basic", "braket.local", "cirq.")
"""How names of devices begin that no machine stands behind."""


class PennyLaneDevice(Device):
    """A PennyLane device by name, or one that was made already.

    By name, a device of the circuit's own wires is made for each job, with the job's seed where shots are drawn.

    Args:
        device: a name as for `qml.device`, or a device whose first wires are used.
        max_circuits: circuits of one job.
        options: further arguments of `qml.device`.
    """

    def __init__(self, device: Any, max_circuits: int | None = None, **options: Any) -> None:
        qml = library("pennylane")
        self._given, self._options = device, options
        if isinstance(device, str):
            self._make(1, None)  # says at once what is wrong with a name or an option
        elif options:
            raise DeviceError(f"{', '.join(options)}: options belong to devices opened by name")
        elif isinstance(device, qml.devices.LegacyDevice):
            self._given = qml.devices.LegacyDeviceFacade(device)
        name = device if isinstance(device, str) else str(getattr(device, "short_name", None) or device.name)
        self.name = f"pennylane:{name}"
        self.is_hardware = not name.startswith(_SIMULATORS)
        self.max_circuits = max_circuits or Device.max_circuits

    def _make(self, n_wires: int, seed: int | None) -> Any:
        qml = library("pennylane")
        options = {"wires": n_wires, **({} if seed is None else {"seed": seed}), **self._options}
        try:
            return qml.device(self._given, **options)
        except qml.exceptions.DeviceError as error:
            raise DeviceError(f"pennylane:{self._given}: {error}; is its plugin installed?") from error
        except TypeError as error:
            raise DeviceError(f"pennylane:{self._given} cannot be made with {options}: {error}") from error

    def _device(self, n_wires: int, options: RunOptions) -> Any:
        if isinstance(self._given, str):
            return self._make(n_wires, options.seed if options.shots is not None else None)
        return self._given

    def _run(self, programs: Sequence[Program], options: RunOptions) -> list[Tensor]:
        qml = library("pennylane")
        n_wires = max(program.circuit.n_wires for program in programs)
        device = self._device(n_wires, options)
        tapes = [self._tape(program, device, options.shots) for program in programs]
        found = qml.execute(tapes, device, diff_method=None)
        shapes = [(program.n_rows, 2**program.circuit.n_wires) for program in programs]
        return [_as_rows(each, shape) for each, shape in zip(found, shapes)]

    def _tape(self, program: Program, device: Any, shots: int | None) -> Any:
        qml = library("pennylane")
        wires = self._wires(device, program.circuit.n_wires)
        is_batch = program.n_rows > 1 and (program.states is not None or program.circuit.n_angles > 0)
        with qml.queuing.AnnotatedQueue() as queue:
            if program.states is not None:
                states = program.states.numpy()
                qml.StatePrep(states if is_batch else states[0], wires=range(program.circuit.n_wires))
            angles = program.angles.numpy()
            to_pennylane(program.circuit)(angles if is_batch else angles[0])
            qml.probs(wires=range(program.circuit.n_wires))
        tape = qml.tape.QuantumScript.from_queue(queue, shots=shots)
        if wires != list(range(len(wires))):
            (tape,), _ = qml.map_wires(tape, dict(enumerate(wires)))
        return tape

    def _wires(self, device: Any, n_wires: int) -> list[Any]:
        if device.wires is None:
            return list(range(n_wires))
        if len(device.wires) < n_wires:
            raise DeviceError(f"{self.name} has {len(device.wires)} wires; the circuit needs {n_wires}")
        return list(device.wires)[:n_wires]

    def profile(self, program: Program, options: RunOptions) -> Profile:
        qml = library("pennylane")
        one = program.part(0, 1)
        device = self._device(one.circuit.n_wires, options)
        tape = self._tape(one, device, options.shots)
        (tape,), _ = qml.transforms.decompose(tape, stopping_condition=lambda op: not isinstance(op, qml.StatePrep))
        pairs = sum(len(operation.wires) == 2 for operation in tape.operations)
        return Profile(tape.graph.get_depth(), pairs, None, "PennyLane's devices do not state durations")


def _as_rows(found: Any, shape: tuple[int, int]) -> Tensor:
    chances = torch.from_numpy(np.array(found, dtype=np.float64))
    return chances.reshape(-1, shape[1]).expand(shape).clone()
