"""The same rows for Quantum-PEFT, with circuits and with skew matrices."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import joined, rows

from ketune import QuantumPeftConfig

PEFT_SUITE = {
    **joined(
        rows(QuantumPeftConfig, "quantum_peft", {}),
        rows(QuantumPeftConfig, "quantum_peft cayley", {"form": "cayley", "rank": 4}),
    ),
    "deselect": [],
}
