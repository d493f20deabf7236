"""Weighted sums of adapters."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from tests.adapters.models import TwoLayers

from ketune import PreQuantConfig, QAAConfig, QTHAConfig, QuantumPeftConfig, QuicConfig, SoraConfig

KINDS = {
    "sora": lambda **kw: SoraConfig(r=3, init_weights=False, **kw),
    "qtha": lambda **kw: QTHAConfig(init_weights=False, **kw),
    "qaa": lambda **kw: QAAConfig(init_weights=False, **kw),
    "qaa amplitudes": lambda **kw: QAAConfig(readout="amplitudes", init_weights=False, **kw),
    "quantum_peft": lambda **kw: QuantumPeftConfig(init_weights=False, seed=3, **kw),
    "prequant": lambda **kw: PreQuantConfig(share=0.1, init_weights=False, **kw),
    "quic": lambda **kw: QuicConfig(init_weights=False, **kw),
}
TARGETS = ["lin0", "lin1"]


def two_adapters(kind, base=None, **other):
    model = get_peft_model(base if base is not None else TwoLayers(), KINDS[kind](target_modules=TARGETS))
    model.add_adapter("other", KINDS[kind](target_modules=TARGETS, **other))
    return model


def delta(model, name, x):
    model.set_adapter(name)
    layer = model.base_model.model.lin0
    return layer(x) - layer.base_layer(x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_is_exact_saves_and_loads(kind, tmp_path):
    base = TwoLayers()
    model, x = two_adapters(kind, copy.deepcopy(base)), torch.randn(5, 10)
    model.add_weighted_adapter(["default", "other"], [0.25, -1.5], "mix")
    expected = 0.25 * delta(model, "default", x) - 1.5 * delta(model, "other", x)
    torch.testing.assert_close(delta(model, "mix", x), expected)
    model.save_pretrained(tmp_path, selected_adapters=["mix"])
    for low_memory in (False, True):
        loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "mix", low_cpu_mem_usage=low_memory)
        assert torch.equal(loaded(x), model(x))
    config = loaded.peft_config["default"]
    count = sum(p.numel() for p in loaded.parameters()) - sum(p.numel() for p in base.parameters())
    assert config.parameter_count(10, 20) + config.parameter_count(20, 2) == count


def test_adapters_of_different_sizes_and_sums_of_sums_add_up():
    model, x = two_adapters("sora", size_pattern={"lin0": 5}), torch.randn(4, 10)
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "first")
    model.add_weighted_adapter(["first", "other"], [2.0, 1.0], "second")
    expected = 2 * delta(model, "default", x) + 3 * delta(model, "other", x)
    torch.testing.assert_close(delta(model, "second", x), expected)


def test_linear_sums_merge_and_others_say_why_not():
    model, x = two_adapters("qaa amplitudes"), torch.randn(4, 10)
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "mix")
    model.set_adapter("mix")
    before = model(x)
    torch.testing.assert_close(model.merge_and_unload()(x), before)
    model = two_adapters("qaa")
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "mix")
    model.set_adapter("mix")
    with pytest.raises(ValueError, match="not linear"):
        model.merge_adapter()


def test_what_does_not_add_up_is_refused_and_leaves_nothing_behind():
    model = two_adapters("sora")
    model.add_adapter("narrow", SoraConfig(r=3, target_modules=["lin0"]))
    for arguments, message in [
        ((["default", "nobody"], [1.0, 1.0], "mix"), "nobody"),
        ((["default"], [1.0, 1.0], "mix"), "one weight each"),
        ((["default", "narrow"], [1.0, 1.0], "mix"), "different modules"),
        ((["default", "other"], [1.0, 1.0], "other"), "already"),
        ((["default", "other"], [1.0, 1.0], "mix", "svd"), "'sum'"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.add_weighted_adapter(*arguments)
    assert set(model.peft_config) == {"default", "other", "narrow"}


def test_a_sum_that_cannot_be_made_leaves_the_model_as_it_was(monkeypatch):
    model, x = two_adapters("sora"), torch.randn(5, 10)
    before = model(x)

    def refuse(*args, **kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(type(model.base_model), "inject_adapter", refuse)
        with pytest.raises(RuntimeError, match="out of memory"):
            model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "mix")
    assert set(model.peft_config) == {"default", "other"}
    assert torch.equal(model(x), before)
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "mix")
