"""The rows for QuanTA, whose update has full rank."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import rows

from ketune import QuantaConfig

PEFT_SUITE = {
    **rows(QuantaConfig, "quanta", {}),
    "deselect": [
        # It compresses the update to rank 8 on 32-wide models and expects next to no loss.
        "test_lora_conversion",
    ],
}
