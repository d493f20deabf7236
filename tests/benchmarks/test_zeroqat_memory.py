"""A step of ZeroQAT takes the memory of inference; a step of back-propagation does not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "zeroqat_memory.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux"),
]


def test_zeroqat_trains_within_fifteen_per_cent_of_inference(tmp_path):
    target = tmp_path / "memory.json"
    command = [sys.executable, str(SCRIPT), "--width", "512", "--layers", "4", "--steps", "1", "--json", str(target)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    printed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert printed.returncode == 0, printed.stderr[-3000:]
    peak = {name: found["peak"] for name, found in json.loads(target.read_text()).items()}
    for form in ("whole", "light"):
        assert peak[f"{form}, ZeroQAT"] < 1.15 * peak[f"{form}, inference"]
        assert peak[f"{form}, straight-through"] > 2 * peak[f"{form}, inference"]
    assert peak["codes, inference"] < peak["light, inference"] < peak["whole, inference"]
    assert printed.stdout.count("within 15 %") == 2
