"""The rows for QTHA with its circuit, which is not linear in x and therefore refuses to merge."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import rows
from peft_cases_pauli_z import PEFT_SUITE as PAULI_Z
from peft_cases_qtha_linear import SMALL

from ketune import QTHAConfig

PEFT_SUITE = {**rows(QTHAConfig, "qtha", SMALL), "deselect": PAULI_Z["deselect"]}  # the same tests merge
