"""PEFT's own test-suite, unmodified, on our methods. Needs the runner in ../shared/tools/peft_suite, else it skips."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUNNER = HERE.parents[2] / "shared" / "tools" / "peft_suite" / "run_peft_suite.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RUNNER.exists(), reason=f"PEFT's suite is run by {RUNNER}, which is not here"),
]


def run_suite(tmp_path: Path, cases: str, suites: str, at_least: int) -> str:
    command = [sys.executable, str(RUNNER), "--cases", str(HERE / cases), "--suites", suites]
    result = subprocess.run(
        [*command, "--work", str(tmp_path), "--min-passed", str(at_least)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    figure = result.stdout.strip().splitlines()[-1]
    assert re.search(r"failed=0 errors=0", figure), figure
    return figure


@pytest.mark.parametrize(
    ("cases", "at_least"),
    [
        ("peft_cases.py", 1100),
        ("peft_cases_pauli_z.py", 450),
        ("peft_cases_quantum_peft.py", 1100),
        ("peft_cases_quic.py", 1080),
        ("peft_cases_quanta.py", 550),
        ("peft_cases_compass.py", 900),
        ("peft_cases_qtha_linear.py", 550),
        ("peft_cases_qtha.py", 450),
        ("peft_cases_qpa.py", 1090),
        ("peft_cases_prequant.py", 550),
        ("peft_cases_qaa_train.py", 550),
    ],
    ids=[
        "linear",
        "pauli_z",
        "quantum_peft",
        "quic",
        "quanta",
        "compass",
        "qtha_linear",
        "qtha",
        "qpa",
        "prequant",
        "qaa_train",
    ],
)
def test_every_suite_passes(tmp_path, cases, at_least):
    print(run_suite(tmp_path, cases, "custom,config,decoder,gpt2,feature,seqcls,encdec", at_least))


@pytest.mark.skipif(not (find_spec("bitsandbytes") and find_spec("torchao")), reason="needs the extra 'quantization'")
@pytest.mark.parametrize(
    ("cases", "at_least"),
    [
        ("peft_cases.py", 30),
        ("peft_cases_pauli_z.py", 12),
        ("peft_cases_quantum_peft.py", 30),
        ("peft_cases_quic.py", 30),
        ("peft_cases_quanta.py", 15),
        ("peft_cases_compass.py", 30),
        ("peft_cases_qtha_linear.py", 15),
        ("peft_cases_qtha.py", 12),
        ("peft_cases_qpa.py", 30),
        ("peft_cases_prequant.py", 15),
    ],
)
def test_the_suite_of_quantised_bases_passes(tmp_path, cases, at_least):
    print(run_suite(tmp_path, cases, "quant", at_least))
