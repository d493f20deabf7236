"""The same rows for QuIC, with one rotation and with a chain of blocks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import joined, rows

from ketune import QuicConfig

PEFT_SUITE = {
    **joined(
        rows(QuicConfig, "quic", {}),
        rows(QuicConfig, "quic chain", {"orders": [1, 2, 3], "n_blocks": 2, "n_chained": 2}),
    ),
    "deselect": [
        # It expects that the update is close to one of rank 8; (R - I) W has full rank. Converting works, with the rank
        # that the user asks for, and keeps as much as that rank can hold.
        "test_lora_conversion",
    ],
}
