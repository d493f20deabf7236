"""Parts that all layers of an adapter share, on a small method made for this test."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from tests.adapters.models import TwoLayers
from torch import nn

from ketune.adapters import AdapterConfig, Update, register


@dataclass
class BankConfig(AdapterConfig):
    """One vector for all layers; each reads it from its own place on."""

    has_shared_part: ClassVar[bool] = True

    def make_shared(self, places):
        bank = nn.Module()
        bank.values = nn.Parameter(torch.zeros(sum(place.out_features for place in places)))
        return bank

    def parameter_count(self, in_features, out_features):
        return 0


class BankUpdate(Update):
    why_not_mergeable = "it is a bias"

    def attach(self, shared, place):
        super().attach(shared, place)
        self.start = 20 * place.index

    def forward(self, x):
        return self.shared.values[self.start : self.start + self.out_features].expand(*x.shape[:-1], -1)


register("bank", BankConfig, BankUpdate)
TARGETS = ["lin0", "lin1"]


def adapt(base=None, **kwargs):
    return get_peft_model(base or TwoLayers(), BankConfig(target_modules=TARGETS, **kwargs))


def test_all_layers_share_one_trained_part():
    model = adapt()
    trained = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"base_model.bank_shared.default.values": torch.Size([22])}
    model(torch.randn(3, 10)).sum().backward()
    gradient = model.base_model.bank_shared["default"].values.grad
    assert gradient[:20].any()
    assert torch.equal(gradient[20:], torch.full((2,), 3.0))


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_the_shared_part_is_saved_and_loaded(tmp_path, low_cpu_mem_usage):
    base = TwoLayers()
    model, x = adapt(copy.deepcopy(base)), torch.randn(3, 10)
    nn.init.normal_(model.base_model.bank_shared["default"].values)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(loaded(x), model(x))
    assert not torch.equal(loaded(x), base(x))
    assert not any(p.requires_grad for p in loaded.parameters())
    loaded.load_adapter(tmp_path, "second", low_cpu_mem_usage=low_cpu_mem_usage)
    loaded.set_adapter("second")
    assert torch.equal(loaded(x), model(x))


def test_only_the_active_adapter_trains_and_a_deleted_one_is_gone():
    model = adapt()
    model.add_adapter("other", BankConfig(target_modules=["lin0"]))
    shared = model.base_model.bank_shared
    assert [name for name, part in shared.items() if part.values.requires_grad] == ["default"]
    assert shared["other"].values.shape == (20,)
    model.set_adapter("other")
    assert [name for name, part in shared.items() if part.values.requires_grad] == ["other"]
    with pytest.warns(UserWarning, match="Setting active adapter to default"):
        model.delete_adapter("other")
    assert [name for name, part in shared.items() if part.values.requires_grad] == ["default"]


def test_a_copied_model_has_a_shared_part_of_its_own():
    model = adapt()
    twin = copy.deepcopy(model)
    nn.init.ones_(twin.base_model.bank_shared["default"].values)
    x = torch.randn(3, 10)
    assert not torch.equal(twin(x), model(x))


def test_injection_without_a_tuner_is_refused():
    with pytest.raises(ValueError, match="shared"):
        inject_adapter_in_model(BankConfig(target_modules=TARGETS), TwoLayers())


def test_weighted_sums_add_shared_parts_up(tmp_path):
    base = TwoLayers()
    model = adapt(copy.deepcopy(base))
    model.add_adapter("other", BankConfig(target_modules=TARGETS))
    first, second = (part.values for part in model.base_model.bank_shared.values())
    nn.init.normal_(first)
    nn.init.normal_(second)
    model.add_weighted_adapter(["default", "other"], [0.5, -2.0], "mix")
    model.set_adapter("mix")
    layer = model.base_model.model.lin1
    x = torch.randn(3, 20)
    torch.testing.assert_close(layer(x) - layer.base_layer(x), (0.5 * first - 2.0 * second)[20:].expand(3, 2))
    model.save_pretrained(tmp_path, selected_adapters=["mix"])
    loaded = PeftModel.from_pretrained(base, tmp_path / "mix")
    assert torch.equal(loaded(torch.ones(2, 10)), model(torch.ones(2, 10)))
