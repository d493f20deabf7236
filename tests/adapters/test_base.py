"""What every method gets from the ground floor, checked for each of them in turn."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import load_file
from tests.adapters.models import TwoLayers, WithConv1D, tiny_gpt2, tiny_llama
from torch import nn

import ketune
from ketune import (
    CompassConfig,
    PreQuantConfig,
    QAAConfig,
    QPAConfig,
    QTHAConfig,
    QuantaConfig,
    QuantumPeftConfig,
    QuicConfig,
    SoraConfig,
)
from ketune.adapters import AdapterLayer

# Every kind of update that differs in what it stores or computes.
CONFIGS = {
    "qaa": lambda **kw: QAAConfig(**kw),
    "qaa published": lambda **kw: QAAConfig.preset("published", **kw),
    "qaa amplitudes": lambda **kw: QAAConfig(readout="amplitudes", **kw),
    "qaa probabilities": lambda **kw: QAAConfig(readout="probabilities", **kw),
    "qaa restored": lambda **kw: QAAConfig(norm_restore=True, readout_scale="layer_norm", n_layers=2, **kw),
    "qaa frozen": lambda **kw: QAAConfig(control="frozen", **kw),
    "qaa classical": lambda **kw: QAAConfig(control="classical", **kw),
    "qaa none": lambda **kw: QAAConfig(control="none", **kw),
    "qtha": lambda **kw: QTHAConfig(**kw),
    "qtha uploads twice": lambda **kw: QTHAConfig(r=2, n_qlayers=2, fusion="mul", upload="tanh", **kw),
    "qtha without trains": lambda **kw: QTHAConfig(architecture="BC", **kw),
    "qtha network": lambda **kw: QTHAConfig(architecture="BE", **kw),
    "qtha trains": lambda **kw: QTHAConfig(architecture="A", **kw),
    "qtha frozen": lambda **kw: QTHAConfig(control="frozen", **kw),
    "qtha classical": lambda **kw: QTHAConfig(control="classical", **kw),
    "qtha none": lambda **kw: QTHAConfig(control="none", **kw),
    "sora": lambda **kw: SoraConfig(r=4, alpha=4.0, **kw),
    "quanta": lambda **kw: QuantaConfig(execution="factored", **kw),
    "quanta materialised": lambda **kw: QuantaConfig(execution="materialised", n_axes=3, **kw),
    "quanta frozen": lambda **kw: QuantaConfig(control="frozen", **kw),
    "quanta classical": lambda **kw: QuantaConfig(control="classical", **kw),
    "quanta none": lambda **kw: QuantaConfig(control="none", **kw),
    "quantum_peft": lambda **kw: QuantumPeftConfig(**kw),
    "quantum_peft terms": lambda **kw: QuantumPeftConfig(rank=3, n_terms=2, n_layers=2, scale=0.5, **kw),
    "quantum_peft cayley": lambda **kw: QuantumPeftConfig(form="cayley", **kw),
    "quantum_peft frozen": lambda **kw: QuantumPeftConfig(control="frozen", **kw),
    "quantum_peft classical": lambda **kw: QuantumPeftConfig(control="classical", rank=2, **kw),
    "quantum_peft none": lambda **kw: QuantumPeftConfig(control="none", **kw),
    "quic": lambda **kw: QuicConfig(**kw),
    "quic chained": lambda **kw: QuicConfig(orders=[1, 2, 3], n_blocks=2, n_chained=2, row_scale=True, **kw),
    "quic shared": lambda **kw: QuicConfig(orders=[2], n_blocks=3, share_blocks=True, **kw),
    "quic frozen": lambda **kw: QuicConfig(control="frozen", **kw),
    "quic classical": lambda **kw: QuicConfig(control="classical", **kw),
    "quic none": lambda **kw: QuicConfig(control="none", **kw),
    "compass": lambda **kw: CompassConfig(rank=4, **kw),
    "compass circuits": lambda **kw: CompassConfig(rank=4, n_layers=2, **kw),
    "compass frozen": lambda **kw: CompassConfig(rank=4, n_layers=1, control="frozen", **kw),
    "compass classical": lambda **kw: CompassConfig(rank=4, n_layers=1, control="classical", **kw),
    "compass none": lambda **kw: CompassConfig(rank=4, n_layers=1, control="none", **kw),
    "prequant": lambda **kw: PreQuantConfig(share=0.2, **kw),
    "prequant magnitude": lambda **kw: PreQuantConfig(n_outliers=9, outlier_rule="magnitude", **kw),
    "qpa": lambda **kw: QPAConfig(chunk=32, **kw),
    "qpa published": lambda **kw: QPAConfig.preset("published", chunk=16, **kw),
    "qpa fused": lambda **kw: QPAConfig(chunk=16, activation="none", fused_linear=True, n_generators=2, **kw),
    "qpa module": lambda **kw: QPAConfig(chunk=16, sharing="module", activation="tanh", **kw),
    "qpa dora": lambda **kw: QPAConfig(chunk=16, target="dora", **kw),
    "qpa adapter": lambda **kw: QPAConfig(chunk=16, target="adapter", **kw),
    "qpa frozen": lambda **kw: QPAConfig(chunk=16, control="frozen", **kw),
    "qpa classical": lambda **kw: QPAConfig(chunk=16, control="classical", **kw),
    "qpa none": lambda **kw: QPAConfig(chunk=16, control="none", **kw),
}
LINEAR = (
    *("qaa amplitudes", "qtha trains", "qtha none", "sora", "quanta", "quantum_peft", "quic", "compass", "prequant"),
    "qpa",
)
MERGEABLE = [kind for kind in CONFIGS if kind.startswith(LINEAR) and kind != "qpa adapter"]
every_method = pytest.mark.parametrize("kind", CONFIGS)
every_linear_method = pytest.mark.parametrize("kind", MERGEABLE)


def adapt(kind, model=None, **kwargs):
    model = model if model is not None else TwoLayers()
    return get_peft_model(model, CONFIGS[kind](**{"target_modules": ["lin0", "lin1"], **kwargs}))


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_the_adapted_model_starts_exactly_as_the_base_model(kind, dtype, autocast):
    model, x = TwoLayers(dtype), torch.randn(5, 10, dtype=dtype)
    before = model(x)
    adapted = get_peft_model(model, CONFIGS[kind](target_modules=["lin0", "lin1"]), autocast_adapter_dtype=autocast)
    assert torch.equal(adapted(x), before)
    assert adapted(x).dtype == dtype


@every_method
def test_every_trainable_parameter_moves_and_the_base_does_not(kind):
    model = TwoLayers()
    frozen = copy.deepcopy(model.state_dict())
    adapted = adapt(kind, model)
    start = {n: p.detach().clone() for n, p in adapted.named_parameters() if p.requires_grad}
    # A generated number is a sum over the mapping model's last layer, so it moves by many times the learning rate.
    rate = 2e-3 if kind.startswith("qpa") else 0.05
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=rate)
    x, y = torch.randn(64, 10), torch.randn(64, 2)
    losses = []
    for _ in range(8):
        loss = nn.functional.mse_loss(adapted(x), y)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    for name, parameter in adapted.named_parameters():
        if name in start:
            assert not torch.equal(parameter, start[name]), name
    for name, value in adapted.get_base_model().state_dict().items():
        plain = name.replace(".base_layer", "")
        if plain in frozen:
            assert torch.equal(value, frozen[plain])


@every_method
def test_the_count_from_the_config_is_the_count_of_the_model(kind):
    adapted = adapt(kind)
    config = adapted.peft_config["default"]
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert config.model_parameter_count([(10, 20), (20, 2)]) == trainable


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 40), st.integers(1, 40)),
    readout=st.sampled_from(["pauli_z", "probabilities", "amplitudes"]),
    layers=st.integers(1, 3),
    ansatz=st.sampled_from(["ry_ring", "ryrz_ring_ry", "rxryrz_ring"]),
    control=st.sampled_from(["trained", "frozen", "classical", "none"]),
    bias=st.booleans(),
)
def test_qaa_counts_are_exact_for_any_shape_and_setting(shape, readout, layers, ansatz, control, bias):
    config = QAAConfig(
        readout=readout,
        n_layers=layers,
        ansatz=ansatz,
        control=control,
        up_bias=bias and readout != "amplitudes",
    )
    update = config.make_update(*shape)
    assert sum(p.numel() for p in update.parameters()) == config.parameter_count(*shape)
    x = torch.randn(3, shape[0])
    assert update(x).shape == (3, shape[1])
    assert not update(x).any()


@every_method
def test_saving_and_loading_gives_the_same_function(kind, tmp_path):
    base = TwoLayers()
    adapted = adapt(kind, copy.deepcopy(base), init_weights=False)
    x = torch.randn(4, 10)
    adapted.save_pretrained(tmp_path)
    for low_memory in (False, True):
        loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path, low_cpu_mem_usage=low_memory)
        assert torch.equal(loaded(x), adapted(x))
        assert not torch.equal(loaded(x), base(x))
    assert sum(p.requires_grad for p in loaded.parameters()) == 0
    on = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path, is_trainable=True)
    assert {n for n, p in on.named_parameters() if p.requires_grad} == {
        n for n, p in adapted.named_parameters() if p.requires_grad
    }


@every_method
def test_the_saved_file_holds_the_adapter_and_nothing_of_the_base(kind, tmp_path):
    adapted = adapt(kind)
    adapted.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    method = adapted.peft_config["default"].method
    assert tensors
    inside = (f".{method}_update.", f".{method}_shared.")
    assert all(any(part in name for part in inside) and "default" not in name for name in tensors)


@every_method
def test_an_adapter_can_be_switched_off_and_deleted(kind):
    base = TwoLayers()
    x = torch.randn(4, 10)
    before = base(x)
    adapted = adapt(kind, base, init_weights=False)
    with adapted.disable_adapter():
        assert torch.equal(adapted(x), before)
    assert not torch.equal(adapted(x), before)
    adapted.add_adapter("second", CONFIGS[kind](target_modules=["lin0"], init_weights=False))
    adapted.set_adapter("second")
    second = adapted(x)
    adapted.delete_adapter("default")
    assert torch.equal(adapted(x), second)
    assert not any("default" in name for name, _ in adapted.named_parameters())


@every_method
def test_other_modules_train_and_are_saved_with_the_adapter(kind, tmp_path):
    """`modules_to_save`: a head that trains in full, each adapter its own."""
    base, x = TwoLayers(), torch.randn(16, 10)
    settings = {"target_modules": ["lin0"], "modules_to_save": ["lin1"], "init_weights": False}
    adapted = adapt(kind, copy.deepcopy(base), **settings)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1e-3)
    adapted(x).square().mean().backward()
    optimizer.step()
    head = adapted.get_base_model().lin1.modules_to_save["default"]
    assert not torch.equal(head.weight, base.lin1.weight)
    adapted.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(saved["base_model.model.lin1.weight"], head.weight)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert torch.equal(loaded(x), adapted(x))
    loaded.add_adapter("second", CONFIGS[kind](**settings))
    loaded.set_adapter("second")
    assert torch.equal(loaded.get_base_model().lin1.modules_to_save["second"].weight, base.lin1.weight)
    with adapted.disable_adapter():
        assert torch.equal(adapted(x), base(x))


# A bottleneck on the layer's output also sees what the adapters before it have added.
@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "qpa adapter"])
def test_two_active_adapters_add_up(kind):
    adapted = adapt(kind, nn.Sequential(nn.Linear(10, 6)), target_modules=["0"], init_weights=False)
    adapted.add_adapter("second", CONFIGS[kind](target_modules=["0"], init_weights=False))
    x = torch.randn(4, 10)
    with adapted.disable_adapter():
        base = adapted(x)
    one = adapted(x) - base
    adapted.set_adapter("second")
    two = adapted(x) - base
    adapted.base_model.set_adapter(["default", "second"])
    assert torch.allclose(adapted(x), base + one + two, atol=1e-4)


@every_method
def test_each_row_of_a_batch_can_have_its_own_adapter(kind):
    adapted = adapt(kind, init_weights=False)
    adapted.add_adapter("second", CONFIGS[kind](target_modules=["lin1"], init_weights=False))
    adapted.eval()
    x = torch.randn(6, 10)
    with adapted.disable_adapter():
        base = adapted(x)
    first = adapted(x)
    adapted.set_adapter("second")
    second = adapted(x)
    rows = ["__base__", "default", "second", "second", "default", "__base__"]
    mixed = adapted(x, adapter_names=rows)
    expected = torch.stack([{"__base__": base, "default": first, "second": second}[r][i] for i, r in enumerate(rows)])
    assert torch.allclose(mixed, expected, atol=1e-5)
    with pytest.raises(ValueError, match="non-existing adapter"):
        adapted(x, adapter_names=["typo"] * 6)
    with pytest.raises(ValueError, match="same as the number of inputs"):
        adapted(x, adapter_names=["default"] * 5)
    adapted.train()
    with pytest.raises(ValueError, match="training mode"):
        adapted(x, adapter_names=rows)


@every_linear_method
@pytest.mark.parametrize("model_cls", [TwoLayers, WithConv1D])
def test_merging_gives_the_same_outputs_and_unmerging_the_same_bits(kind, model_cls):
    base = model_cls()
    targets = ["c_attn"] if model_cls is WithConv1D else ["lin0", "lin1"]
    width = 6 if model_cls is WithConv1D else 10
    weights = copy.deepcopy(base.state_dict())
    adapted = adapt(kind, base, target_modules=targets, init_weights=False)
    adapted.add_adapter("second", CONFIGS[kind](target_modules=targets, init_weights=False))
    x = torch.randn(4, width)
    adapted.base_model.set_adapter(["default", "second"])
    with torch.no_grad():
        apart = adapted(x)
        adapted.merge_adapter(safe_merge=True)
        assert torch.allclose(adapted(x), apart, rtol=1e-4, atol=1e-4)
        adapted.unmerge_adapter()
    for name, value in adapted.get_base_model().state_dict().items():
        if name.replace(".base_layer", "") in weights:
            assert torch.equal(value, weights[name.replace(".base_layer", "")])
    assert torch.allclose(adapted.merge_and_unload()(x), apart, rtol=1e-4, atol=1e-4)


@every_linear_method
def test_a_merge_into_bfloat16_comes_apart_bit_for_bit(kind):
    base = TwoLayers(torch.bfloat16)
    weight = base.lin0.weight.detach().clone()
    adapted = adapt(kind, base, init_weights=False)
    adapted.merge_adapter()
    assert not torch.equal(adapted.get_base_model().lin0.base_layer.weight, weight)
    adapted.unmerge_adapter()
    assert torch.equal(adapted.get_base_model().lin0.base_layer.weight, weight)


@every_linear_method
def test_a_safe_merge_refuses_values_that_are_not_finite(kind):
    adapted = adapt(kind, init_weights=False)
    with torch.no_grad():
        next(p for p in adapted.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"NaNs detected in the merged weights\. The adapter default seems"):
        adapted.merge_and_unload(safe_merge=True)


@pytest.mark.parametrize("kind", [k for k in CONFIGS if k not in MERGEABLE])
def test_an_update_that_is_not_linear_refuses_to_merge_and_says_why(kind):
    adapted = adapt(kind)
    for merge in (adapted.merge_adapter, adapted.merge_and_unload):
        with pytest.raises(ValueError, match="not linear in the layer's input; train with "):
            merge()
    assert not adapted.supports_lora_conversion()
    unloaded = adapted.unload()
    assert isinstance(unloaded.lin0, nn.Linear)


@every_method
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_language_models_train_with_gradient_checkpointing_and_without(kind, make):
    """Default targets on grouped-KV Llama and on GPT-2's Conv1D; the same gradients either way."""
    ids = torch.randint(0, 50, (2, 9))
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = get_peft_model(make(), CONFIGS[kind](task_type="CAUSAL_LM", init_weights=False))
        model.train()
        if checkpointing:
            model.enable_input_require_grads()
            model.get_base_model().activation_checkpointing_enable()
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert gradients[0]
    for name, gradient in gradients[0].items():
        # Where layers share parameters, their gradients are added in another order.
        tolerance = max(1e-6, (1e-4 if kind.startswith("qpa") else 1e-5) * gradient.abs().max().item())
        assert torch.allclose(gradient, gradients[1][name], atol=tolerance), name


@every_method
def test_bfloat16_autocast_keeps_the_output_dtype_and_finite_gradients(kind):
    adapted = adapt(kind, init_weights=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = adapted(torch.randn(4, 10))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in adapted.parameters() if p.requires_grad)


def test_input_casting_can_be_switched_off_as_in_peft():
    adapted = adapt("sora")
    with disable_input_dtype_casting(adapted), pytest.raises(RuntimeError):
        adapted(torch.randn(4, 10, dtype=torch.bfloat16))


def test_layers_that_cannot_be_adapted_are_refused_by_name():
    model = nn.Sequential(nn.Embedding(4, 8), nn.Linear(8, 2))
    with pytest.raises(TypeError, match=r"0 is a Embedding, which SoraConfig cannot adapt"):
        get_peft_model(model, SoraConfig(target_modules=["0"]))


def test_a_saved_folder_tells_how_to_load_it_and_loads_in_one_call(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "base")
    base = ketune.adapters.meta_model(tmp_path / "base")
    assert base.device.type == "meta"
    model = get_peft_model(
        type(base).from_pretrained(tmp_path / "base"), QAAConfig(task_type="CAUSAL_LM", init_weights=False)
    )
    model.save_pretrained(tmp_path / "adapter")
    model.save_pretrained(tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert card.count("import ketune  #") == 1
    assert "ketune.load(" in card
    ids = torch.randint(0, 50, (1, 7))
    model.eval()
    for loaded in (
        ketune.load(tmp_path / "adapter"),
        ketune.load(tmp_path / "adapter", model=type(base).from_pretrained(tmp_path / "base")),
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter"),
    ):
        assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)


def test_loading_what_is_no_adapter_says_what_to_pass(tmp_path):
    with pytest.raises(ketune.KetuneError, match=r"adapter_config.json"):
        ketune.load(tmp_path)


@every_method
def test_torch_compile_gives_the_same_outputs_and_gradients_without_graph_breaks(kind):
    torch._dynamo.reset()  # its limit on recompilations counts across tests
    adapted = adapt(kind, init_weights=False)
    x = torch.randn(4, 10)
    compiled = torch.compile(adapted, backend="aot_eager", fullgraph=True)
    outputs = compiled(x), adapted(x)
    assert torch.allclose(*outputs, atol=1e-5)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    for ours, plain in zip(*(torch.autograd.grad(y.square().sum(), trained) for y in outputs)):
        assert torch.allclose(ours, plain, atol=1e-4 * max(1.0, float(plain.abs().max())))


def test_sizes_can_differ_by_layer():
    config = SoraConfig(target_modules=["lin0", "lin1"], r=2, size_pattern={"lin1": 5})
    adapted = get_peft_model(TwoLayers(), config)
    ranks = {n: len(m.updates["default"].gate) for n, m in adapted.named_modules() if isinstance(m, AdapterLayer)}
    assert ranks == {"base_model.model.lin0": 2, "base_model.model.lin1": 5}
