"""The rows for QTHA without its circuit, which is linear in x and merges."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import rows

from ketune import QTHAConfig

# PEFT's MLP rows train with SGD at a rate of 0.5 on inputs up to 90; a small alpha keeps the product of up to eleven
# trained factors finite there.
SMALL = {"alpha": 0.1}
PEFT_SUITE = {**rows(QTHAConfig, "qtha", {"architecture": "AB", **SMALL}), "deselect": []}
