"""What the cost model knows of the machine: the rates of the native simulator and of matrix products on the CPU.

The rates below were measured on one core of an AMD EPYC (Zen 5) by `calibrate`. Only their ratio decides, so they serve
for most machines; `ketune.circuits.calibrate()` measures yours in a second and keeps the answer for later processes.
The same file keeps what was measured on CUDA devices, see `ketune.circuits._device_costs`.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ketune.circuits._device_costs import DeviceTime, measure_device, triton_setting

_VERSION = 2  # of the file; version 1 had no number and no devices


@dataclass(frozen=True)
class Rates:
    """Nanoseconds on one core for forward and backward together.

    Attributes:
        turn_ns: one turn of one wire on a row of 16 float32 numbers.
        row_ns: what such a row costs besides: reading features, phases, readout and its adjoint, writing gradients.
        product_ns: one multiplication and addition of a large matrix product.
    """

    turn_ns: float = 3.3
    row_ns: float = 13.0
    product_ns: float = 0.013


@lru_cache(maxsize=1)
def native_is_available() -> bool:
    """Whether compiled code can be used: llvmlite is there and the variable KETUNE_NATIVE is not "0"."""
    return os.environ.get("KETUNE_NATIVE", "1") != "0" and find_spec("llvmlite") is not None


def _file() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "ketune" / f"circuit_rates-{platform.node() or 'machine'}.json"


def _read() -> dict[str, Any]:
    """What the file holds, or nothing where there is none, or one that a later version of Ketune wrote."""
    with suppress(OSError, ValueError):
        values = json.loads(_file().read_text())
        if isinstance(values, dict) and values.get("version", 1) in (1, _VERSION):
            return values
    return {}


@lru_cache(maxsize=1)
def current_rates() -> Rates:
    """The rates that `calibrate` kept for this machine, or the defaults."""
    with suppress(ValueError, TypeError, KeyError):
        values = _read()
        rates = Rates(**{name: float(values[name]) for name in asdict(Rates())})
        if min(asdict(rates).values()) > 0:
            return rates
    return Rates()


@lru_cache(maxsize=16)
def device_times(name: str) -> tuple[DeviceTime, ...]:
    """What `calibrate` kept of a CUDA device, by the device's name; nothing where it has not been measured."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        return tuple(DeviceTime(**row) for row in _read()["devices"][name])
    return ()


def _least_seconds(work: Callable[[], object], turns: int = 7) -> float:
    work()
    least = float("inf")
    for _ in range(turns):
        start = time.process_time()
        work()
        least = min(least, time.process_time() - start)
    return least


def calibrate(keep: bool = True) -> Rates:
    """Measures this machine for the cost model, which picks the way to run a circuit; takes about a second.

    On a machine with a CUDA device and Triton it also times the Triton kernels beside matrix products there, which
    takes a minute or two the first time, because kernels are compiled. Only after that are they ever chosen.

    Args:
        keep: also write the rates to the user's cache folder (`$XDG_CACHE_HOME/ketune` or `~/.cache/ketune`), where
            later processes find them.

    Returns:
        the rates, in use from now on in this process when they are kept.
    """
    from ketune.circuits._execute_native import run_native_once
    from ketune.circuits.ansatz import ry_ring

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, right = torch.randn(2, 768, 768)
        product_ns = _least_seconds(lambda: left @ right) / 768**3 * 1e9
        defaults, n_wires, n_samples = Rates(), 10, 512
        turn_ns, row_ns = defaults.turn_ns, defaults.row_ns
        if native_is_available():
            x = torch.randn(n_samples, 2**n_wires)
            seconds = [_least_seconds(run_native_once(ry_ring(n_wires, n_layers), x)) for n_layers in (1, 5)]
            rows = n_samples * 2**n_wires / 16
            turn_ns = (seconds[1] - seconds[0]) / (4 * n_wires * rows) * 1e9
            row_ns = max(seconds[0] / rows * 1e9 - n_wires * turn_ns, turn_ns)
    finally:
        torch.set_num_threads(threads)
    rates = Rates(turn_ns, row_ns, product_ns)
    devices: dict[str, list[DeviceTime]] = {}
    if torch.cuda.is_available() and triton_setting() != "0":
        devices[torch.cuda.get_device_name()] = measure_device(torch.device("cuda"))
    if keep:
        write_measurements(rates, devices)
    return rates


def write_measurements(rates: Rates, devices: Mapping[str, Sequence[DeviceTime]]) -> None:
    """Writes the file, in use from now on in this process; what it knows of other devices stays."""
    known = _read().get("devices")
    kept = dict(known) if isinstance(known, dict) else {}
    kept |= {name: [asdict(row) for row in rows] for name, rows in devices.items()}
    _write({"version": _VERSION, **asdict(rates), "devices": kept})
    current_rates.cache_clear()
    device_times.cache_clear()


def _write(values: dict[str, Any]) -> None:
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(values, file)
    os.replace(file.name, path)
