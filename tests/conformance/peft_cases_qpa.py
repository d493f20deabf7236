"""The same rows for QPA, which keeps its parameters in a part that all layers share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import rows

from ketune import QPAConfig

# PEFT's MLP rows train with SGD at a rate of 0.5 on inputs up to 90; a small factor keeps the products finite there.
QPA = {"chunk": 32, "r": 4, "lora_alpha": 0.04}

PEFT_SUITE = {
    **rows(QPAConfig, "qpa", QPA),
    "deselect": [
        # These count trainable tensors and expect fewer of them with one layer; here all layers share the same ones.
        # PEFT leaves its own methods with shared weights (VeRA, VB-LoRA, Uni-LoRA) out in the test itself.
        "layer_indexing",
    ],
}
