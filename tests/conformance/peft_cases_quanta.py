"""The rows for QuanTA, whose update has full rank."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import rows

from ketune import QuantaConfig

# PEFT's MLP rows train with SGD at a rate of 0.5 on inputs up to 90, and the first step already makes gates a hundred
# times their size: a product of three or more of them leaves float32 at the third. Two gates are the most that stay.
SETTINGS = {"n_axes": 3, "n_gates": 2}

PEFT_SUITE = {
    **rows(QuantaConfig, "quanta", SETTINGS),
    "deselect": [
        # It compresses the update to rank 8 on 32-wide models and expects next to no loss.
        "test_lora_conversion",
    ],
}
