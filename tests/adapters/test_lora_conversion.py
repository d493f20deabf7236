"""Adapters as plain LoRA: for PEFT in a process that never imports Ketune, and for servers that read files alone."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from peft import LoHaConfig, LoraConfig, MissConfig, PeftModel, convert_to_lora, get_peft_model
from safetensors.torch import load_file
from tests.adapters.models import TwoLayers, tiny_gpt2, tiny_llama
from torch import nn

import ketune
from ketune import (
    METHODS,
    CompassConfig,
    KetuneError,
    QAAConfig,
    QPAConfig,
    QPAPrefixConfig,
    QTHAConfig,
    QuantaConfig,
    QuantumPeftConfig,
    QuicConfig,
    SoraConfig,
    to_lora,
    update_matrices,
)
from ketune.adapters import AdapterConfig, ConfigError

IDS = torch.arange(14).view(2, 7)
BASES = {"llama": tiny_llama, "gpt2": tiny_gpt2}
SIZES = {"qpa": 40, "quic": 1, "quantum_peft": 2, "quanta": 600}
LINEAR = {"qaa": {"readout": "amplitudes"}, "qtha": {"architecture": "AB"}}
"""What makes a method linear in x whose default is not."""

LOADER = """
import sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # as in pyproject.toml
import torch
from pathlib import Path
from peft import AutoPeftModelForCausalLM
found = {}
for folder in Path(sys.argv[1]).glob("lora-*"):
    model = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        found[folder.name] = model(torch.arange(14).view(2, 7)).logits
assert "ketune" not in sys.modules
torch.save(found, sys.argv[2])
"""


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def linear_configs(base):
    """LoRA, and each method of ours that can be linear in x, with random values."""
    for name, method in METHODS.items():
        if name != "lora" and not isinstance(method.config(1), AdapterConfig):
            continue
        config = replace(method.config(SIZES.get(name, 4)), **LINEAR.get(name, {}))
        if name == "lora":
            yield name, replace(config, init_lora_weights=False, fan_in_fan_out=base == "gpt2")
        else:
            yield name, replace(config, init_weights=False)


def in_files(folder):
    """B A of each module, from the files alone: what a server adds, that reads r and lora_alpha and no pattern."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    ends = (".lora_A.weight", ".lora_B.weight")
    names = {key.removesuffix(ends[0]) for key in tensors if key.endswith(ends[0])}
    return {name: scale * tensors[name + ends[1]].double() @ tensors[name + ends[0]].double() for name in names}


def check_errors(converted, model):
    """The reported errors against the difference of what is in the files and what the adapter says it is."""
    served, updates = in_files(converted.folder), update_matrices(model)
    assert len(served) == len(updates) == len(converted.errors)
    missed = total = 0.0
    for name, error in converted.errors.items():
        delta = updates[f"base_model.model.{name}"].double()
        difference = delta - served[f"base_model.model.{name}"]
        assert error == pytest.approx(float(difference.norm() / delta.norm()), rel=0.1, abs=3e-7)
        missed, total = missed + float(difference.square().sum()), total + float(delta.square().sum())
    assert converted.error == pytest.approx((missed / total) ** 0.5, rel=0.1, abs=3e-7)


def test_every_linear_method_gives_the_same_logits_where_ketune_is_not_imported(tmp_path):
    expected, methods = {}, [name for name, _ in linear_configs("llama")]
    assert {"lora", "sora", "qaa", "quanta", "quantum_peft", "quic", "compass", "qtha", "qpa"} <= set(methods)
    for base, make in BASES.items():
        before = logits(make())
        make().save_pretrained(tmp_path / base)
        for name, config in linear_configs(base):
            model = get_peft_model(type(make()).from_pretrained(tmp_path / base), config)
            converted = to_lora(model, tmp_path / f"lora-{base}-{name}")
            assert max(converted.errors.values()) < 1e-5
            check_errors(converted, model)
            assert sorted(path.name for path in converted.folder.iterdir()) == [
                "adapter_config.json",
                "adapter_model.safetensors",
            ]
            expected[converted.folder.name] = logits(model)
            assert (expected[converted.folder.name] - before).abs().max() > 1e-3, name
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path), str(tmp_path / "logits.pt")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "logits.pt")
    assert found.keys() == expected.keys()
    for name, there in found.items():
        torch.testing.assert_close(there, expected[name], rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("config", "rank"),
    [
        (CompassConfig(rank=4), 4),
        (CompassConfig(rank=4, n_layers=1), 4),
        (QuantumPeftConfig(rank=3, n_terms=2), 6),
        (QPAConfig(chunk=40, r=5), 5),
        (SoraConfig(r=4), 4),
        (QTHAConfig(architecture="AB", r=3), 3),
        (QAAConfig(readout="amplitudes", n_readouts=4), 4),
    ],
    ids=lambda value: getattr(value, "method", value),
)
@pytest.mark.parametrize("make", BASES.values(), ids=BASES)
def test_a_method_of_low_rank_stays_exact_from_that_rank_on(make, config, rank, tmp_path):
    model = get_peft_model(make(), replace(config, init_weights=False))
    for more in (0, 2):
        converted = to_lora(model, tmp_path / f"rank-{rank + more}", rank + more)
        assert set(converted.ranks.values()) == {rank + more}
        assert max(converted.errors.values()) < 1e-6
    less = to_lora(model, tmp_path / "less", rank - 1)
    assert min(less.errors.values()) > 1e-4
    check_errors(less, model)
    found = to_lora(model, tmp_path / "found")
    assert set(found.ranks.values()) == {rank}


def test_closed_gates_of_sora_cost_no_rank(tmp_path):
    model = get_peft_model(tiny_llama(), SoraConfig(r=6, init_weights=False))
    gates = list(ketune.adapters.gates(model).values())
    with torch.no_grad():
        for number, gate in enumerate(gates):
            gate[number + 1 :] = 0
    assert list(to_lora(model, tmp_path / "lora").ranks.values()) == [1, 2, 3, 4]


@pytest.mark.parametrize("rank", [1, 3, 0.5, 0.95])
@pytest.mark.parametrize("make", BASES.values(), ids=BASES)
def test_cuts_are_those_of_pefts_own_conversion(make, rank, tmp_path):
    model = get_peft_model(make(), QuantaConfig(init_weights=False))
    converted = to_lora(model, tmp_path / "lora", rank)
    _, theirs = convert_to_lora(model, rank=rank)
    ours = in_files(converted.folder)
    for name, product in ours.items():
        a, b = theirs[f"{name}.lora_A.weight"], theirs[f"{name}.lora_B.weight"]
        assert converted.ranks[name.removeprefix("base_model.model.")] == len(a)
        torch.testing.assert_close(product.float(), b @ a, rtol=1e-4, atol=1e-5)
    check_errors(converted, model)


def test_pefts_own_methods_convert_too(tmp_path):
    model = get_peft_model(tiny_llama(), LoHaConfig(r=2, target_modules=["q_proj"], init_weights=False))
    converted = to_lora(model, tmp_path / "loha")
    assert set(converted.ranks.values()) == {4}  # a Hadamard product of two matrices of rank 2
    check_errors(converted, model)


# ------------------------------------------------------------------------------------------------- numbers and dtypes


def test_an_update_of_zero_converts_without_a_division_by_zero(tmp_path):
    base = tiny_llama()
    before = logits(base)
    for rank in (None, 0.9, 3):
        model = get_peft_model(tiny_llama(), QuicConfig())
        converted = to_lora(model, tmp_path / f"zero-{rank}", rank)
        assert set(converted.errors.values()) == {0.0}
        assert converted.error == 0.0
        assert set(converted.ranks.values()) == {rank if rank == 3 else 1}
        assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), converted.folder)), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_error_counts_the_rounding_of_the_file(dtype, tmp_path):
    model = get_peft_model(tiny_llama(dtype=torch.bfloat16), CompassConfig(rank=4, init_weights=False))
    converted = to_lora(model, tmp_path / "lora", 4, dtype=dtype)
    check_errors(converted, model)
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    # Half a unit in the last place of 24, 8 and 11 bits, times about one for two factors.
    low, high = {torch.float32: (0, 3e-7), torch.bfloat16: (5e-4, 4e-3), torch.float16: (5e-5, 5e-4)}[dtype]
    assert low <= converted.error < high


def test_a_model_in_bfloat16_is_converted_in_float32(tmp_path):
    base = tiny_llama().to(torch.bfloat16)
    model = get_peft_model(base, QuicConfig(init_weights=False), autocast_adapter_dtype=False)
    expected = logits(model)
    converted = to_lora(model, tmp_path / "lora")
    assert converted.error < 1e-5
    again = PeftModel.from_pretrained(tiny_llama().to(torch.bfloat16), converted.folder)
    # Three products in bfloat16 instead of one rotation in bfloat16.
    torch.testing.assert_close(logits(again), expected, rtol=0.05, atol=0.05)


def test_values_that_are_not_finite_are_refused(tmp_path):
    model = get_peft_model(TwoLayers(), SoraConfig(target_modules=["lin0"], init_weights=False))
    update = model.base_model.model.lin0.sora_update["default"]
    with torch.no_grad():
        update.a[0, 0] = 1e16
        with pytest.raises(ConfigError, match="factors of lin0 are too large"):
            to_lora(model, tmp_path / "lora", dtype=torch.float16)
        update.a[0, 0] = float("nan")
    with pytest.raises(ConfigError, match="lin0 holds values that are not finite"):
        to_lora(model, tmp_path / "lora")
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------- the folder


def test_modules_trained_in_full_go_along_and_those_of_other_adapters_do_not(tmp_path):
    config = CompassConfig(rank=4, init_weights=False, modules_to_save=["lm_head"])
    model = get_peft_model(tiny_llama(), config)
    model.add_adapter("other", config)
    heads = model.base_model.model.lm_head.modules_to_save
    with torch.no_grad():
        heads["default"].weight.normal_()
        heads["other"].weight.fill_(7.0)
    to_lora(model, tmp_path / "lora")
    saved = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert torch.equal(saved["base_model.model.lm_head.weight"], heads["default"].weight)
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path / "lora")
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-5)


def test_one_adapter_of_several_is_converted_and_the_model_is_left_alone(tmp_path):
    model = get_peft_model(tiny_llama(), CompassConfig(rank=4, init_weights=False))
    model.add_adapter("other", CompassConfig(rank=2, init_weights=False, target_modules=["k_proj"]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    converted = to_lora(model, tmp_path / "lora", adapter_name="other")
    assert set(converted.ranks) == {f"model.layers.{layer}.self_attn.k_proj" for layer in (0, 1)}
    assert model.active_adapter == "default"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.add_weighted_adapter(["default"], [2.0], "twice")
    assert to_lora(model, tmp_path / "twice", adapter_name="twice").error < 1e-6
    model.merge_adapter(["default"])
    assert to_lora(model, tmp_path / "merged").error < 1e-6


@pytest.mark.parametrize(
    ("target", "tokens", "more"),
    [
        ("q_proj", 50, []),
        ("lm_head", 50, []),
        ("q_proj", 60, ["lm_head.weight", "model.embed_tokens.weight"]),
        ("lm_head", 60, ["lm_head.base_layer.weight"]),  # as PEFT itself saves it
    ],
)
def test_embeddings_go_along_where_tokens_were_added_and_only_there(target, tokens, more, tmp_path):
    def base():
        torch.manual_seed(0)
        model = type(tiny_llama()).from_pretrained(tmp_path / "base")
        model.resize_token_embeddings(tokens, mean_resizing=False)
        return model

    tiny_llama().save_pretrained(tmp_path / "base")
    config = QuantumPeftConfig(task_type="CAUSAL_LM", target_modules=[target], rank=2, init_weights=False)
    model = get_peft_model(base(), config)
    to_lora(model, tmp_path / "lora")
    saved = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert sorted(name for name in saved if ".lora_" not in name) == [f"base_model.model.{name}" for name in more]
    again = PeftModel.from_pretrained(base(), tmp_path / "lora")
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-4)


class Nested(nn.Module):
    """Two layers of one name, of which the shorter path ends the longer one."""

    def __init__(self):
        super().__init__()
        self.lin0, self.inner = nn.Linear(6, 6), TwoLayers()


@pytest.mark.parametrize(
    ("make", "fields", "targets"),
    [
        (tiny_llama, {"target_modules": "all-linear", "exclude_modules": ["down_proj"]}, 6),
        (tiny_llama, {"target_modules": ["q_proj"], "layers_to_transform": [1]}, ["model.layers.1.self_attn.q_proj"]),
        (tiny_llama, {"target_modules": r".*(q|v)_proj"}, ["q_proj", "v_proj"]),
        (tiny_gpt2, {"target_modules": r".*attn\.c_proj"}, [f"transformer.h.{n}.attn.c_proj" for n in (0, 1)]),
        (Nested, {"target_modules": "lin0"}, "lin0"),
    ],
)
def test_a_converted_adapter_stands_on_the_same_layers_and_no_others(make, fields, targets, tmp_path):
    model = get_peft_model(make(), QuantumPeftConfig(init_weights=False, rank=2, **fields))
    converted = to_lora(model, tmp_path / "lora", 2)
    named = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["target_modules"]
    assert len(named) == targets if isinstance(targets, int) else named == targets
    again = PeftModel.from_pretrained(make(), tmp_path / "lora")
    found = {name.removeprefix("base_model.model.") for name in update_matrices(again)}
    assert found == set(converted.ranks)


def test_a_fixed_rank_is_that_of_every_layer_and_a_found_one_of_each(tmp_path):
    """The widths of k_proj are 24 and 12: a server reserves one rank for all."""
    model = get_peft_model(tiny_llama(), QuicConfig(target_modules=["q_proj", "k_proj"], init_weights=False))
    fixed = to_lora(model, tmp_path / "fixed", 20)
    assert set(fixed.ranks.values()) == {20}
    config = json.loads((tmp_path / "fixed" / "adapter_config.json").read_text())
    assert (config["rank_pattern"], config["alpha_pattern"], config["r"], config["lora_alpha"]) == ({}, {}, 20, 20)
    check_errors(fixed, model)
    found = to_lora(model, tmp_path / "found")
    narrow = {rank for name, rank in found.ranks.items() if name.endswith("k_proj")}
    assert max(narrow) <= 12 < max(found.ranks.values())
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path / "found")
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-4)


def test_nothing_is_written_over_and_nothing_is_left_of_a_failure(tmp_path):
    model = get_peft_model(TwoLayers(), SoraConfig(target_modules=["lin0"], init_weights=False))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep me")
    with pytest.raises(KetuneError, match="pass a new folder"):
        to_lora(model, tmp_path / "mine")
    with pytest.raises(KetuneError, match="cannot be written"):
        to_lora(model, tmp_path / "mine" / "file" / "below")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "file"]
    (tmp_path / "empty").mkdir()
    assert to_lora(model, tmp_path / "empty").folder == tmp_path / "empty"


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (QAAConfig(), "lin0 cannot become LoRA: QAA with readout='pauli_z' is not linear"),
        (QTHAConfig(), "QTHA with architecture='ABC' is not linear"),
        (QPAConfig(target="adapter"), "QPA with target='adapter' is not linear"),
        (SoraConfig(bias="all"), r"SoraConfig\(bias='all'\) trains biases"),
        (LoraConfig(lora_bias=True), r"lora_bias=True\) trains biases"),
        (LoraConfig(use_dora=True), "DoraLinearVariant is more than a product"),
        (MissConfig(r=2), "use peft.save_as_lora"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_change_of_weights_is_refused_with_the_reason(config, says, tmp_path):
    config = replace(config, target_modules=["lin0"])
    with pytest.raises(ConfigError, match=says):
        to_lora(get_peft_model(TwoLayers(), config), tmp_path / "lora")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["qaa", "qtha", "prefix"])
def test_methods_of_the_registry_that_are_not_linear_are_refused(name, tmp_path):
    model = get_peft_model(tiny_llama(), METHODS[name].config())
    with pytest.raises(ConfigError, match=r"not linear|beside the text"):
        to_lora(model, tmp_path / "lora")
    assert not any(tmp_path.iterdir())


def test_layers_that_are_not_linear_and_prefixes_are_refused(tmp_path):
    model = get_peft_model(tiny_llama(), LoraConfig(target_modules=["embed_tokens"]))
    with pytest.raises(ConfigError, match="embed_tokens cannot become LoRA: it is a Embedding"):
        to_lora(model, tmp_path / "lora")
    prefix = QPAPrefixConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, chunk=50)
    with pytest.raises(ConfigError, match=r"beside the text.*export_plain writes it"):
        to_lora(get_peft_model(tiny_llama(), prefix), tmp_path / "lora")


@pytest.mark.parametrize("rank", [0, -1, 11, True, 0.0, 1.5, float("nan"), "8"])
def test_a_rank_out_of_range_is_refused_with_what_is_allowed(rank, tmp_path):
    model = get_peft_model(TwoLayers(), SoraConfig(target_modules=["lin0", "lin1"], init_weights=False))
    with pytest.raises(ConfigError, match=r"rank=.*from 1 to 10 .*float in \(0, 1\]"):
        to_lora(model, tmp_path / "lora", rank)
    for wrong, says in (({"adapter_name": "x"}, r"'x'\): no such adapter.*default"), ({"dtype": torch.int8}, "int8")):
        with pytest.raises(ConfigError, match=says):
            to_lora(model, tmp_path / "lora", **wrong)
    assert not any(tmp_path.iterdir())
