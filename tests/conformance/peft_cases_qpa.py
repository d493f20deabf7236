"""The same rows for QPA, which keeps its parameters in a part that all layers share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import joined, rows

from ketune import QPAConfig

# PEFT's MLP rows train with SGD at a rate of 0.5 on inputs up to 90; a small factor keeps the products finite there.
QPA = {"chunk": 32, "r": 4, "lora_alpha": 0.02}

PEFT_SUITE = {
    **joined(rows(QPAConfig, "qpa", QPA), rows(QPAConfig, "qpa dora", {**QPA, "target": "dora"})),
    "deselect": [
        # These count trainable tensors and expect fewer of them with one layer; here all layers share the same ones.
        # PEFT leaves its own methods with shared weights (VeRA, VB-LoRA, Uni-LoRA) out in the test itself.
        "layer_indexing",
        # SGD at a rate of 0.5 makes NaNs of products with norms; PEFT takes its own DoRA there at a rate of 0.1.
        "test_parameters_after_loading_model[qpa dora",
    ],
}
