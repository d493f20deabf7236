"""QAA of a named architecture whose angles come from one tensor train, with the linear readout, which merges."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import rows

from ketune import QAAConfig

PEFT_SUITE = rows(
    QAAConfig, "qaa", {"readout": "amplitudes", "angles": "tensor_train", "circuit": "linear", "train_rank": 2}
)
