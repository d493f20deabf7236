"""The same rows for QAA's default readout, which is not linear in x and therefore refuses to merge."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peft_cases import rows

from ketune import QAAConfig

PEFT_SUITE = {
    **rows(QAAConfig, "qaa", {}),
    "deselect": [
        # Each of these folds the adapter into the weight, which a circuit with squared readouts cannot do; that it
        # refuses with a reason is tested in tests/adapters/test_base.py.
        "test_delete_merged_adapter",
        "test_disable_adapters_with_merging",
        "test_merge_layers",
        "test_merge_unmerge_unload",
        "test_mixed_adapter_batches_merged_raises",
        "test_multiple_active_adapters_merge_and_unmerge",
        "test_safe_merge",
        "test_sequential_merge_matches_batch_merge",
        "test_unmerge_after_sequential_merge_restores_base",
        # These merge in their last lines; outputs in half precision are tested in tests/adapters/test_base.py.
        "test_forward_bfloat16",
        "test_forward_float16",
    ],
}
