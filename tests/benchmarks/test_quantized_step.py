"""The benchmark of fake-quantised steps: its ways agree before they are timed, and it writes what it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "quantized_step.py"


@pytest.mark.slow  # torchao comes with `make test-slow`
def test_the_ways_agree_and_the_ratios_are_those_of_the_times(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    sizes = ["--width", "128", "--batch", "2", "--length", "16", "--turns", "2"]
    command = [sys.executable, str(SCRIPT), *sizes, "--json", str(tmp_path / "out" / "step.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads((tmp_path / "out" / "step.json").read_text())["steps"]
    assert [step["activations"] for step in steps] == [4, 8]
    for step in steps:
        assert step["layer_kept_bytes"]["full precision"] == 0 < step["layer_kept_bytes"]["ours"]
        for seconds in (step["layer_seconds"], step["llama_seconds"]):
            line = f"{'ours':20}{1e3 * seconds['ours']:10.2f}{seconds['ours'] / seconds['torchao']:13.2f}"
            assert line in done.stdout
