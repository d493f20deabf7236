"""What a shell waits for: help must not import torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "matplotlib", "qiskit", "pennylane")
PROBE = f"""
import sys
sys.argv = ["ketune", *{{arguments!r}}]
from ketune.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
found = sorted(set({HEAVY!r}) & set(sys.modules))
assert not found, found
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["methods", "--help"],
        ["export", "--help"],
        ["quantize", "--help"],
        ["vqc", "--help"],
        ["search", "--help"],
        ["--version"],
    ],
)
def test_help_comes_without_torch(arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(arguments=arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ketune" in done.stdout


def test_a_program_that_imports_ketune_can_load_adapters():
    """Registration is what the import is for, so only our own command may do without it."""
    program = "import ketune, peft; assert 'QAA' in peft.PEFT_TYPE_TO_CONFIG_MAPPING"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_program_run_as_a_module_registers_too(tmp_path):
    """While Python finds the module behind -m, that program's argv looks like ours."""
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "__init__.py").write_text(
        "import ketune, peft\nassert 'QAA' in peft.PEFT_TYPE_TO_CONFIG_MAPPING\n"
    )
    (tmp_path / "tool" / "__main__.py").write_text("print('fine')\n")
    done = subprocess.run([sys.executable, "-m", "tool"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr
