"""Another adapter in the tensors of a loaded one: for every method, compiled too, all or nothing."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from tests.adapters.models import TwoLayers, tiny_llama
from tests.adapters.test_base import CONFIGS
from torch._dynamo.testing import CompileCounter

import ketune
from ketune import (
    CompassConfig,
    KetuneError,
    QAAConfig,
    QPAConfig,
    QPAPrefixConfig,
    QuantaConfig,
    QuantumPeftConfig,
    QuicConfig,
    SoraConfig,
    hotswap,
)
from ketune.adapters import ConfigError

IDS = torch.arange(14).view(2, 7)
TARGETS = ["lin0", "lin1"]


def two_layers(dtype=torch.float32):
    torch.manual_seed(1)
    return TwoLayers(dtype)


def moved(model):
    """Other values for all that a file holds, frozen angles and frames among it."""
    with torch.no_grad():
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items():
            if name.endswith(".index"):  # PreQuant's places
                tensor.copy_(tensor.flip(0))
                continue
            values = tensor if tensor.is_floating_point() else tensor.view(torch.float32)  # QAA's starts are kept so
            values.add_(0.1 * torch.randn_like(values))
    return model


def saved(folder, make, config):
    """An adapter of another run."""
    model = get_peft_model(make(), config)
    torch.manual_seed(5)
    moved(model).save_pretrained(folder)
    return folder


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def places(model):
    return {name: tensor.data_ptr() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def same(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_swapped_model_is_the_one_that_loads_the_folder_and_has_the_same_tensors(kind, tmp_path):
    config = CONFIGS[kind](target_modules=TARGETS, init_weights=False)
    other = replace(config, seed=7) if hasattr(config, "seed") else config
    saved(tmp_path, two_layers, other)
    model = get_peft_model(two_layers(), config).eval()
    x = torch.randn(5, 10)
    loaded = PeftModel.from_pretrained(two_layers(), tmp_path).eval()
    before, where, draws = model(x), places(model), torch.random.get_rng_state()
    assert not torch.allclose(before, loaded(x))
    hotswap(model, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), draws)
    assert torch.equal(model(x), loaded(x))
    assert places(model) == where
    # What is saved next is what was loaded, seed and all.
    model.save_pretrained(tmp_path / "again")
    again = PeftModel.from_pretrained(two_layers(), tmp_path / "again").eval()
    assert torch.equal(again(x), loaded(x))


@pytest.mark.parametrize("kind", ["quanta", "quantum_peft", "quantum_peft classical", "quic frozen", "qpa"])
def test_starts_from_another_seed_come_to_a_model_in_bfloat16_as_loading_brings_them(kind, tmp_path):
    config = CONFIGS[kind](target_modules=TARGETS, init_weights=False)
    saved(tmp_path, lambda: two_layers(torch.bfloat16), replace(config, seed=7))
    model = get_peft_model(two_layers(torch.bfloat16), config).eval()
    loaded = PeftModel.from_pretrained(two_layers(torch.bfloat16), tmp_path).eval()
    hotswap(model, tmp_path)
    x = torch.randn(5, 10, dtype=torch.bfloat16)
    assert torch.equal(model(x), loaded(x))


@pytest.mark.parametrize(
    ("config", "seed"),
    [
        (CompassConfig(rank=4, n_layers=1), None),
        (SoraConfig(r=4), None),
        (QuantaConfig(), 7),
        (QuantumPeftConfig(), 7),
        (QuicConfig(), None),
        (QAAConfig(readout="amplitudes"), None),
        (QPAConfig(chunk=40), 7),
    ],
    ids=lambda value: getattr(value, "method", value),
)
def test_a_compiled_model_is_not_compiled_again(config, seed, tmp_path):
    def make():
        return tiny_llama(num_hidden_layers=1)

    torch._dynamo.reset()
    config = replace(config, task_type="CAUSAL_LM", init_weights=False)
    saved(tmp_path, make, config if seed is None else replace(config, seed=seed))
    loaded = PeftModel.from_pretrained(make(), tmp_path).eval()
    model = get_peft_model(make(), config).eval()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    with torch.no_grad():
        first = compiled(IDS).logits
        frames = counter.frame_count
        assert frames > 0
        hotswap(compiled, tmp_path)
        second = compiled(IDS).logits
        assert counter.frame_count == frames
        torch.testing.assert_close(second, loaded(IDS).logits)
        assert (second - first).abs().max() > 1e-3
        # What it saves: the same adapter beside the first one is another model to the compiler.
        model.load_adapter(tmp_path, "beside")
        model.set_adapter("beside")
        torch.testing.assert_close(compiled(IDS).logits, second)
        assert counter.frame_count > frames


def test_frames_that_were_pointed_on_other_data_are_swapped_too(tmp_path):
    def pointed(seed):
        model = get_peft_model(tiny_llama(), CompassConfig(rank=4, frame="kfac" if seed else "natural"))
        batch = torch.randint(50, (4, 9), generator=torch.Generator().manual_seed(seed))
        model.peft_config["default"].calibrate(model, [{"input_ids": batch, "labels": batch}], "default")
        for name, parameter in model.named_parameters():
            if "diagonal" in name:
                torch.nn.init.normal_(parameter)
        return model.eval()

    pointed(1).save_pretrained(tmp_path)
    model, loaded = pointed(0), ketune.load(tmp_path, tiny_llama()).eval()
    hotswap(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, loaded(IDS).logits)
    assert model.peft_config["default"].frame == "kfac"


def test_modules_trained_in_full_and_biases_are_swapped_and_other_adapters_are_not(tmp_path):
    config = SoraConfig(r=4, modules_to_save=["lin1"], target_modules=["lin0"], bias="all", init_weights=False)
    saved(tmp_path, two_layers, config)
    model = get_peft_model(two_layers(), config).eval()
    model.add_adapter("other", replace(config, bias="none"))
    model.set_adapter("other")
    x = torch.randn(5, 10)
    before = [tensor.clone() for name, tensor in model.named_parameters() if ".other." in name]
    hotswap(model, tmp_path)
    assert all(map(torch.equal, before, [t for name, t in model.named_parameters() if ".other." in name]))
    model.set_adapter("default")
    assert torch.equal(model(x), PeftModel.from_pretrained(two_layers(), tmp_path).eval()(x))


def test_fields_of_training_are_taken_over_and_the_dropout_stays(tmp_path):
    config = SoraConfig(target_modules=TARGETS, sparse_lambda=0.1, dropout=0.5)
    saved(tmp_path, two_layers, replace(config, sparse_lambda=0.3, gate_init="ones", dropout=0.0))
    model = get_peft_model(two_layers(), config)
    hotswap(model, tmp_path)
    now = model.peft_config["default"]
    assert (now.sparse_lambda, now.gate_init, now.dropout) == (0.3, "ones", 0.5)
    assert not now.inference_mode


@pytest.mark.parametrize(
    ("here", "there", "says"),
    [
        (SoraConfig(), {"alpha": 8.0}, "alpha is 8.0 there and 16.0 here"),
        (QAAConfig(), {"readout": "probabilities", "scale": 2.0}, "readout is 'probabilities' there.*scale is 2.0"),
        (QAAConfig(), {"ansatz": "ry_ring"}, "ansatz is 'ry_ring'"),
        (QuantumPeftConfig(rank=2), {"scale": 0.5}, "scale is 0.5"),
        (CompassConfig(rank=2), {"rank": 1}, "rank is 1"),
        (QuicConfig(), {"control": "classical"}, "control is 'classical'"),
        (QuantaConfig(), {"execution": "factored"}, "execution is 'factored'"),
        (QPAConfig(chunk=16), {"lora_alpha": 3.0, "seed": 5}, "lora_alpha is 3.0 there and None here"),
        (SoraConfig(), {"target_modules": ["lin0"]}, "target_modules is"),
        (SoraConfig(), {"bias": "all"}, "bias is 'all'"),
    ],
    ids=lambda value: getattr(value, "method", None),
)
def test_a_field_that_is_built_in_is_refused_by_its_name_and_nothing_changes(here, there, says, tmp_path):
    here = replace(here, target_modules=TARGETS, init_weights=False)
    saved(tmp_path, two_layers, replace(here, **there))
    model = get_peft_model(two_layers(), here)
    before, config = state(model), model.peft_config["default"].to_dict()
    with pytest.raises(ConfigError, match=says):
        hotswap(model, tmp_path)
    assert same(model, before)
    assert model.peft_config["default"].to_dict() == config


def test_layers_that_share_a_generator_are_compared_by_name(tmp_path):
    """The file of QPA names no layer: q_proj and o_proj have one shape, and so do their generators."""
    config = QPAConfig(task_type="CAUSAL_LM", chunk=40, target_modules=["q_proj"])
    saved(tmp_path, tiny_llama, replace(config, target_modules=["o_proj"]))
    with pytest.raises(ConfigError, match=r"target_modules is \{'o_proj'\} there"):
        hotswap(get_peft_model(tiny_llama(), config), tmp_path)


def test_tensors_that_do_not_fit_are_refused_by_name_and_nothing_changes(tmp_path):
    config = SoraConfig(target_modules=TARGETS, init_weights=False)
    saved(tmp_path / "sora", two_layers, config)
    model = get_peft_model(torch.nn.ModuleDict({"lin0": torch.nn.Linear(10, 20)}), config)
    before = state(model)
    with pytest.raises(ConfigError, match=r"also has 3 of the tensors of this adapter: base_model.model.lin1"):
        hotswap(model, tmp_path / "sora")
    model = get_peft_model(
        torch.nn.ModuleDict({"lin0": torch.nn.Linear(10, 20), "lin1": torch.nn.Linear(20, 3)}), config
    )
    with pytest.raises(ConfigError, match=r"lin1.sora_update.b has shape \(2, 8\) there and \(3, 8\) here"):
        hotswap(model, tmp_path / "sora")
    model = get_peft_model(two_layers(), config)
    before = state(model)
    model.merge_adapter()
    with pytest.raises(ConfigError, match=r"'default' is merged.*unmerge_adapter"):
        hotswap(model, tmp_path / "sora")
    model.unmerge_adapter()
    assert same(model, before)


def test_other_methods_and_adapters_that_are_not_there_are_refused(tmp_path):
    saved(tmp_path / "sora", two_layers, SoraConfig(target_modules=TARGETS))
    model = get_peft_model(two_layers(), QAAConfig(target_modules=TARGETS))
    with pytest.raises(ConfigError, match="is SoraConfig, and adapter 'default' is QAAConfig"):
        hotswap(model, tmp_path / "sora")
    with pytest.raises(ConfigError, match=r"'mine'\): no such adapter; the model has \['default'\]"):
        hotswap(model, tmp_path / "sora", "mine")
    with pytest.raises(ConfigError, match="no adapter at all"):
        hotswap(two_layers(), tmp_path / "sora")
    with pytest.raises(KetuneError, match="no adapter at"):
        hotswap(model, tmp_path)
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = get_peft_model(tiny_llama(), prefix)
    model.save_pretrained(tmp_path / "prefix")
    with pytest.raises(ConfigError, match="PrefixTuningConfig cannot be swapped"):
        hotswap(model, tmp_path / "prefix")


@pytest.mark.parametrize("start", [None, "zero"])
def test_a_generated_prefix_is_swapped(start, tmp_path):
    config = QPAPrefixConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, chunk=50, init_weights=start)
    other = get_peft_model(tiny_llama(), replace(config, seed=3))
    for parameter in other.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    other.save_pretrained(tmp_path)
    model = get_peft_model(tiny_llama(), config).eval()
    where = places(model)
    hotswap(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, ketune.load(tmp_path, tiny_llama()).eval()(IDS).logits)
    assert places(model) == where
    saved_elsewhere = get_peft_model(tiny_llama(), replace(config, init_weights=None if start else "zero"))
    with pytest.raises(ConfigError, match="init_weights is"):
        hotswap(saved_elsewhere, tmp_path)


def test_lora_is_passed_on_to_peft(tmp_path):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=False)
    saved(tmp_path / "lora", two_layers, replace(config, lora_alpha=2))
    saved(tmp_path / "rs", two_layers, replace(config, use_rslora=True))
    saved(tmp_path / "more", two_layers, replace(config, target_modules=["lin0"], modules_to_save=["lin1"]))
    model = get_peft_model(two_layers(), config).eval()
    model.add_adapter("other", replace(config, use_rslora=True))
    model.set_adapter("other")  # PEFT's function compares with the active adapter
    with pytest.raises(ConfigError, match="use_rslora"):
        hotswap(model, tmp_path / "lora")
    model.set_adapter("default")
    where, x = places(model), torch.randn(5, 10)
    for folder, says in (("rs", "use_rslora, False != True"), ("more", "PEFT swaps LoRA factors only")):
        with pytest.raises(ConfigError, match=says):
            hotswap(model, tmp_path / folder)
    hotswap(model, tmp_path / "lora")
    assert places(model) == where
    torch.testing.assert_close(model(x), PeftModel.from_pretrained(two_layers(), tmp_path / "lora").eval()(x))
    model.save_pretrained(tmp_path / "again")  # with the scale that it has now
    torch.testing.assert_close(model(x), PeftModel.from_pretrained(two_layers(), tmp_path / "again").eval()(x))
