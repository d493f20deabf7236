"""What a cell costs: peak memory of its own process, its size on disk, and the machine and packages it ran with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("transformers", "peft", "datasets", "torch", "trl", "accelerate", "bitsandbytes", "ketune")


class MemoryMeter:
    """Peak memory of this process from `start` on: the resident set on the CPU, the allocator's peak on CUDA.

    A result is comparable only if the process did nothing else before: the libraries that are loaded count on the CPU.
    So `baseline_bytes` is kept beside the peak; their difference is what training needed on top of the loaded model.

    Args:
        device: Where the model is.
    """

    def __init__(self, device: Any) -> None:
        self.on_cuda = getattr(device, "type", str(device)).startswith("cuda")
        self.samples: list[int] = []
        self.baseline_bytes = 0

    def start(self) -> None:
        """Begin: what is in use now (the loaded model) is the baseline."""
        if self.on_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.baseline_bytes = torch.cuda.memory_allocated()
        else:
            self.baseline_bytes = resident_bytes()
        self.sample()

    def sample(self) -> None:
        """Note what is in use now (reserved by the allocator on CUDA), e.g. after each training step."""
        if self.on_cuda:
            import torch

            self.samples.append(torch.cuda.memory_reserved())
        else:
            self.samples.append(resident_bytes())

    def stop(self) -> dict[str, Any]:
        """End: the `memory` section of a result."""
        self.sample()
        if self.on_cuda:
            import torch

            peak, kind = torch.cuda.max_memory_allocated(), "cuda_allocated"
        else:
            peak, kind = peak_resident_bytes(), "max_rss"
        return {"peak_bytes": max(peak, self.baseline_bytes), "baseline_bytes": self.baseline_bytes, "kind": kind}

    def peft_fields(self, memory: dict[str, Any]) -> dict[str, int]:
        """The memory fields of PEFT's `train_info`; on the CPU the resident set stands in for the accelerator."""
        if self.on_cuda:
            import torch

            most = torch.cuda.max_memory_reserved()
        else:
            most = memory["peak_bytes"]
        ordered = sorted(self.samples)
        return {
            "accelerator_memory_reserved_avg": sum(ordered) // len(ordered),
            "accelerator_memory_max": most,
            "accelerator_memory_reserved_99th": ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))],
        }


def resident_bytes() -> int:
    """Resident set of this process now; where the system does not tell, its peak so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Largest resident set of this process so far.

    Linux: VmHWM, which starts afresh with the process; `ru_maxrss` of a started program begins with the peak of
    whoever started it. macOS: `ru_maxrss`.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def folder_bytes(folder: Path, pattern: str = "*.safetensors") -> int:
    """Bytes of the files in `folder` that match."""
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def meta_info(model: str, data: str, fingerprint: str, **system: Any) -> dict[str, Any]:
    """The `meta_info` of a result: what PEFT's writer notes, without asking any server.

    Args:
        model: Name of the base model.
        data: Name of the data.
        fingerprint: Of the data.
        **system: More about how the cell ran, e.g. `threads=1`.
    """
    import torch

    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[f"{name}-version"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[f"{name}-version"] = None
        packages[f"{name}-commit-hash"] = None
    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return {
        "model_info": {"id": model, "sha": None, "created_at": None},
        "dataset_info": {data: {"sha": fingerprint, "created_at": None}},
        "package_info": packages,
        "system_info": {
            "system": platform.system(),
            "release": platform.release(),
            "version": platform.version(),
            "machine": platform.machine(),
            "processor": platform.processor(),
            "python": platform.python_version(),
            "accelerator": accelerator,
            "cpu_cores": available_cores(),
            **system,
        },
        "pytorch_info": torch.__config__.show(),
    }


def available_cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
