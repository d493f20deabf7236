"""The rows for Compass, without circuits and with them; frames stay random, since PEFT's suite shows no data."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import joined, rows

from ketune import CompassConfig

PEFT_SUITE = {
    **joined(
        rows(CompassConfig, "compass", {"rank": 4}),
        rows(CompassConfig, "compass circuits", {"rank": 4, "n_layers": 1}),
    ),
    "deselect": [],
}
