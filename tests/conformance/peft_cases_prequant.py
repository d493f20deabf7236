"""The rows for PreQuant."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import rows

from ketune import PreQuantConfig

# Enough entries that a layer of 20 x 2 has eight of them, and a row of another adapter is never without effect.
GRID = rows(PreQuantConfig, "prequant", {"share": 0.2})
# The suite of quantised bases puts random values of one seed beside a layer and its quantised twin. Places follow from
# the weight, so all entries it is, where both have the same.
QUANT = [(PreQuantConfig, {"target_modules": ["q_proj", "v_proj"], "share": 1.0})]
PEFT_SUITE = {**GRID, "quant": QUANT, "deselect": []}
