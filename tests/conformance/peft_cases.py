"""The rows on which PEFT's own test-suite runs our methods; read by `test_peft_suite.py`'s runner, not by pytest."""

from ketune import QAAConfig, SoraConfig

# PEFT's MLP rows train with SGD at a rate of 0.5 on inputs up to 90; alpha / r = 1 keeps the product of three trained
# factors finite there, as alpha / r = 1 does for PEFT's own LoRA rows.
SORA = {"r": 4, "alpha": 4.0}
# The linear readout does everything; the default readout does everything but merging.
QAA = {"readout": "amplitudes"}


def rows(config_cls, name, settings, decoder_targets=None):
    random = {**settings, "init_weights": False}
    both = {"target_modules": ["lin0", "lin1"], **settings}
    return {
        "custom": [
            (f"{name} pattern", "MLP", config_cls, {"target_modules": "lin0", **settings}),
            (f"{name} wide", "MLP", config_cls, {"target_modules": ["lin0"], **settings}),
            (f"{name} narrow", "MLP", config_cls, {"target_modules": ["lin1"], **settings}),
            (f"{name} both", "MLP", config_cls, both),
            (f"{name} head", "MLP", config_cls, {**both, "target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
            (f"{name} second model", "MLP2", config_cls, both),
        ],
        "multi": [
            (f"{name} same", name, config_cls, *[{"target_modules": ["lin0"], **random}] * 2),
            (f"{name} other", name, config_cls, *[{"target_modules": [t], **random} for t in ("lin0", "lin1")]),
        ],
        "class_level": [config_cls],
        "decoder": [(config_cls, {"task_type": "CAUSAL_LM", "target_modules": decoder_targets, **settings})],
        "feature": [
            (config_cls, {"task_type": "FEATURE_EXTRACTION", "target_modules": ["query", "value"], **settings})
        ],
        "seqcls": [(config_cls, {"task_type": "SEQ_CLS", "target_modules": "all-linear", **settings})],
        "encdec": [(config_cls, {"task_type": "SEQ_2_SEQ_LM", "target_modules": ["q_proj", "v_proj"], **settings})],
        "quant": [(config_cls, {"target_modules": ["q_proj", "v_proj"], **settings})],
        "config": [(config_cls, settings)],
        "mixed_batch": [
            (f"{name} rows", *[config_cls(target_modules=["lin0"], **random) for _ in range(2)]),
        ],
    }


def joined(*grids):
    return {key: [row for grid in grids for row in grid[key]] for key in grids[0]}


PEFT_SUITE = {**joined(rows(SoraConfig, "sora", SORA), rows(QAAConfig, "qaa", QAA)), "deselect": []}
