"""The driver's side of a peer's process: start, ask, and stop when it takes too long or too much."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def gpu_environment(source: Path | None = None) -> dict[str, str]:
    """The environment of every peer on a GPU. JAX must not take all of its memory at once: others live beside it."""
    variables = {**os.environ, "KETUNE_BENCHMARK_DEVICE": "cuda", "PYTHONWARNINGS": "ignore"}
    variables |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if source is not None:
        variables["PYTHONPATH"] = str(source)
    return variables


def environment(threads: int, source: Path | None = None) -> dict[str, str]:
    """The environment of every peer: so many threads, no GPU, Ketune from `source` where given."""
    variables = {**os.environ, **{name: str(threads) for name in THREAD_VARIABLES}}
    variables |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
    variables["KETUNE_BENCHMARK_DEVICE"] = "cpu"
    flags = variables.get("XLA_FLAGS", "")
    if threads == 1:
        flags += " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    variables["XLA_FLAGS"] = flags.strip()
    if source is not None:
        variables["PYTHONPATH"] = str(source)
    return variables


class PeerProcess:
    """One peer, in a process that lives as long as it answers.

    Args:
        module: the peer's module in `peers`.
        python: the interpreter that has the simulator.
        variables: the process's environment.
        time_cap: CPU seconds that one command may take; the wall time may be ten times that.
        memory_cap: bytes that the process may hold.
        log: file that takes whatever the simulator prints.
    """

    def __init__(
        self, module: str, python: Path, variables: dict[str, str], time_cap: float, memory_cap: float, log: Path
    ) -> None:
        self.module, self.python, self.variables, self.log = module, python, variables, log
        self.time_cap, self.memory_cap = time_cap, memory_cap
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, Any]:
        """Starts the process and returns its name, note, gradients and versions, or why there are none."""
        if not self.python.exists():
            return {"failed": f"not installed (no {self.python})"}
        command = [self.python, "-m", "peers._worker", self.module]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=FOLDER, env=self.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        return self.ask("hello")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One command and its answer; a process that dies, or is stopped at a cap, answers with the reason."""
        if self.process is None or self.process.poll() is not None:
            started = self.start()
            if "failed" in started:
                return started
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self.process.stdin.flush()
        end = time.monotonic() + 10 * self.time_cap
        start = self.cpu_seconds()
        line = b""
        while not line.endswith(b"\n"):
            if select.select([self.process.stdout], [], [], 0.05)[0]:
                part = os.read(self.process.stdout.fileno(), 1 << 16)
                if not part:
                    return {"failed": f"the process ended with status {self.stop()}"}
                line += part
            elif self.cpu_seconds() - start > self.time_cap:
                self.stop()
                return {"failed": f"more than {self.time_cap:g} s of CPU time"}
            elif time.monotonic() > end:
                self.stop()
                return {"failed": f"no answer in {10 * self.time_cap:g} s"}
            elif self.resident() > self.memory_cap:
                self.stop()
                return {"failed": f"more than {self.memory_cap / 2**30:g} GiB"}
        return json.loads(line)

    def resident(self) -> int:
        """Bytes of memory that the process holds, or 0 where that cannot be read."""
        assert self.process is not None
        with suppress(OSError):
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0

    def cpu_seconds(self) -> float:
        """CPU time that the process has used, over all threads, or 0 where that cannot be read."""
        assert self.process is not None
        with suppress(OSError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def stop(self) -> int | None:
        """Ends the process and returns its status, or None where there is none."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        with suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        try:
            return process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            process.stdout.close()  # type: ignore[union-attr]
