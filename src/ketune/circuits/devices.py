"""`open_device`: Qiskit's and PennyLane's simulators, fake backends and machines, by name or as they are.

The libraries come with the extra `devices`: `pip install "ketune[devices]"`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ketune.circuits._aer_device import AerDevice
from ketune.circuits._device import Device, DeviceError
from ketune.circuits._optional import library
from ketune.circuits._pennylane_device import PennyLaneDevice
from ketune.circuits._qiskit_device import QiskitDevice, StatevectorDevice

__all__ = ["DEVICES", "Device", "DeviceError", "open_device"]

DEVICES = (
    "statevector",
    "aer",
    "fake_<machine>",
    "generic:<qubits>",
    "ibm:<machine>",
    "ibm:least_busy",
    "pennylane:<device>",
)
"""Names that `open_device` takes; what stands in <> is the user's."""

_TOKEN, _INSTANCE, _CHANNEL = "QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE", "QISKIT_IBM_CHANNEL"


def open_device(device: Any, **options: Any) -> Device:
    """A device by its name, or around what Qiskit or PennyLane made.

    Args:
        device: one of

            - "statevector": Qiskit's exact statevector, or its sampler when shots are asked for;
            - "aer": Qiskit Aer. Options `noise` (a `NoiseModel` of ours or of Aer), `loading` ("gates": features are
              loaded by gates as noisy as others, "free": without noise), `method` of `AerSimulator`;
            - "fake_manila" and the like: a copy of an IBM machine with its noise, from qiskit-ibm-runtime;
            - "generic:5": Qiskit's `GenericBackendV2` with so many qubits; options are its arguments;
            - "ibm:<machine>" or "ibm:least_busy": an IBM machine, with the account that qiskit-ibm-runtime has saved,
              or that the variable QISKIT_IBM_TOKEN names (and QISKIT_IBM_INSTANCE, QISKIT_IBM_CHANNEL);
            - "pennylane:<device>": "pennylane:default.mixed", "pennylane:lightning.qubit" or what a plugin adds;
              options are those of `qml.device`;
            - a Qiskit `BackendV2`, a PennyLane device, or a `Device`, which is handed back.
        options: of the device; all take `max_circuits`, the circuits of one job, but "statevector".

    Raises:
        DeviceError: for a name or an option that is unknown, or a machine that cannot be reached.
        ImportError: without the library, with the command that installs it.

    Example:
        >>> from ketune.circuits import NoiseModel, open_device
        >>> open_device("aer", noise=NoiseModel(readout_error=0.02)).name
        'aer'
    """
    try:
        return _open(device, options)
    except TypeError as error:
        if not options:
            raise
        raise DeviceError(f"open_device({device!r}): cannot take {', '.join(options)} ({error})") from error


def _open(device: Any, options: dict[str, Any]) -> Device:
    if isinstance(device, Device):
        if options:
            raise DeviceError(f"open_device: {device.name} is open already; it takes no {', '.join(options)}")
        return device
    if not isinstance(device, str):
        return _around(device, options)
    kind, _, rest = device.partition(":")
    openers: dict[str, Callable[[], Device]] = {
        "statevector": lambda: StatevectorDevice(**options),
        "aer": lambda: AerDevice(**options),
        "generic": lambda: _generic(rest, options),
        "ibm": lambda: _ibm(rest, options),
        "pennylane": lambda: PennyLaneDevice(rest, **options),
    }
    if kind in ("statevector", "aer") and rest:
        raise DeviceError(f"device {device!r}: {kind!r} takes nothing behind a colon")
    if kind in ("ibm", "pennylane") and not rest:
        raise DeviceError(f"device {device!r}: name what to open, as in 'ibm:least_busy' or 'pennylane:default.qubit'")
    if kind in openers:
        return openers[kind]()
    if device.startswith("fake_"):
        return _fake(device, options)
    raise DeviceError(f"device {device!r}: unknown; choose one of {', '.join(DEVICES)}, or pass a backend or a device")


def _around(device: Any, options: dict[str, Any]) -> Device:
    root = {part.__module__.partition(".")[0] for part in type(device).__mro__}
    if "pennylane" in root:
        return PennyLaneDevice(device, **options)
    if "qiskit" in root and isinstance(device, library("qiskit.providers").BackendV2):
        if "qiskit_ibm_runtime" in root and isinstance(device, library("qiskit_ibm_runtime").IBMBackend):
            return _on_ibm(device, options)
        return _sampled_backend(device, options)
    raise DeviceError(f"device {type(device).__name__}: pass a name, a Qiskit BackendV2 or a PennyLane device")


def _sampled_backend(backend: Any, options: dict[str, Any], is_hardware: bool = False) -> QiskitDevice:
    """A backend with Qiskit's own sampler."""
    sampler = library("qiskit.primitives").BackendSamplerV2

    def make(seed: int | None) -> Any:
        return sampler(backend=backend, options={} if seed is None else {"seed_simulator": seed})

    return QiskitDevice(backend, make, is_hardware=is_hardware, **options)


def _generic(n_qubits: str, options: dict[str, Any]) -> QiskitDevice:
    if not n_qubits.isdigit() or not int(n_qubits):
        raise DeviceError(f"device 'generic:{n_qubits}': write the number of qubits, as in 'generic:5'")
    own = {"max_circuits": options.pop("max_circuits")} if "max_circuits" in options else {}
    backend = library("qiskit.providers.fake_provider").GenericBackendV2(int(n_qubits), **{"seed": 0, **options})
    return _sampled_backend(backend, own)


def _fake(name: str, options: dict[str, Any]) -> QiskitDevice:
    module = library("qiskit_ibm_runtime.fake_provider")
    # Not by its FakeProviderForBackendV2, which makes all machines to find one.
    parts = [getattr(module, part) for part in dir(module) if part.startswith("Fake")]
    known = {part.backend_name: part for part in parts if hasattr(part, "backend_name")}
    if name not in known:
        raise DeviceError(f"device {name!r}: no such copy of a machine; choose one of {', '.join(sorted(known))}")
    return _sampled_backend(known[name](), options)


def _ibm(name: str, options: dict[str, Any]) -> QiskitDevice:
    runtime = library("qiskit_ibm_runtime")
    account = {
        key: value
        for key, variable in (("token", _TOKEN), ("instance", _INSTANCE), ("channel", _CHANNEL))
        if (value := os.environ.get(variable))
    }
    try:
        service = runtime.QiskitRuntimeService(**account)
        backend = (
            service.least_busy(operational=True, simulator=False) if name == "least_busy" else service.backend(name)
        )
    except Exception as error:  # the service raises its own errors, those of requests, and others
        # Messages of the service are not handed on: they may quote the account.
        raise DeviceError(
            f"device 'ibm:{name}': {type(error).__name__} from the IBM Quantum service. Set {_TOKEN} and {_INSTANCE}, "
            "or save an account once with QiskitRuntimeService.save_account, and check the machine's name"
        ) from None
    return _on_ibm(backend, options)


def _on_ibm(backend: Any, options: dict[str, Any]) -> QiskitDevice:
    """A machine of IBM, in job mode, with the sampler of qiskit-ibm-runtime, which takes no seed."""
    runtime = library("qiskit_ibm_runtime")
    try:
        sampler = library("qiskit_ibm_runtime.executor_sampler").Sampler  # since 0.50
    except ImportError:
        sampler = runtime.SamplerV2
    return QiskitDevice(
        backend, lambda seed: sampler(mode=backend), name=f"ibm:{backend.name}", is_hardware=True, **options
    )
