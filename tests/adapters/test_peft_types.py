"""The member that we add to PEFT's enum behaves as those it ships."""

import copy
import pickle
from dataclasses import dataclass

import pytest
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from ketune import QAAConfig
from ketune.adapters import AdapterConfig, Update, register
from ketune.adapters._peft_types import ensure_peft_type


@pytest.mark.parametrize("name", ["QAA", "SORA"])
def test_lookup_iteration_copying_and_pickling(name):
    member = getattr(PeftType, name)
    assert PeftType(name) is PeftType[name] is member
    assert member in list(PeftType)
    assert isinstance(member, PeftType)
    assert (member.name, member.value) == (name, name)
    assert member == name
    assert copy.deepcopy(member) is member
    assert pickle.loads(pickle.dumps(member)) is member
    assert {PEFT_TYPE_TO_CONFIG_MAPPING[member].method, PEFT_TYPE_TO_PREFIX_MAPPING[member].rstrip("_")} == {
        name.lower()
    }
    assert PEFT_TYPE_TO_TUNER_MAPPING[member].prefix == name.lower() + "_"


def test_adding_a_type_that_peft_ships_returns_it():
    n = len(PeftType)
    assert ensure_peft_type("LORA") is PeftType.LORA
    assert ensure_peft_type("QAA") is PeftType.QAA
    assert len(PeftType) == n


def test_a_name_that_is_taken_is_refused():
    @dataclass
    class OtherConfig(AdapterConfig):
        pass

    with pytest.raises(RuntimeError, match="PEFT already has a method 'lora'"):
        register("lora", OtherConfig, Update)


def test_a_config_survives_pickling_and_json(tmp_path):
    config = QAAConfig(readout=["XZ"], target_modules=["q_proj"], size_pattern={})
    assert pickle.loads(pickle.dumps(config)) == config
    config.save_pretrained(tmp_path)
    assert QAAConfig.from_pretrained(tmp_path) == config


def test_every_field_has_a_help_text():
    help_texts = QAAConfig.help()
    for name in ("target_modules", "ansatz", "readout", "control", "bias", "dropout"):
        assert help_texts[name]
