"""What QAA's circuit may be made of: searched circuits, angles from one tensor train, learned starts."""

import copy
import math

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from tests.adapters.models import TwoLayers, tiny_llama

from ketune import QAAConfig
from ketune.adapters import ConfigError
from ketune.adapters.calibration import circuits_of
from ketune.adapters.learned_starts import PLACE_LENGTH, places_of
from ketune.adapters.train_angles import TrainAngles
from ketune.circuits import ry_ring, to_openqasm3
from ketune.errors import KetuneError
from ketune.tensor_networks import TrainVector, contract_train
from ketune.vqc import FlipDecoder, InitialiserError, Learner
from ketune.vqc.architecture import Architecture
from ketune.vqc.circuit_file import CircuitFile, save_circuit

LAYERS = ["lin0", "lin1"]  # 10 -> 20 and 20 -> 2: circuits on 4 and 5 wires


def adapted(base=None, **fields):
    return get_peft_model(base or TwoLayers(), QAAConfig(target_modules=LAYERS, **fields))


def trained(model, n_steps=3, lr=0.05):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    generator = torch.Generator().manual_seed(1)
    for _ in range(n_steps):
        x = torch.randn(8, 10, generator=generator)
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    return model


# ------------------------------------------------------------------------------------------------- searched circuits


def test_a_searched_circuit_stands_beside_layers_of_every_width_and_travels_with_the_adapter(tmp_path):
    architecture = Architecture(("ring", "brick_even"))
    save_circuit(tmp_path / "found.json", architecture.circuit(8), architecture)
    model = trained(adapted(circuit=str(tmp_path / "found.json")))
    config = model.peft_config["default"]
    assert [config.circuit_for(width) for width in (10, 20)] == [architecture.circuit(4), architecture.circuit(5)]
    (tmp_path / "found.json").unlink()
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(copy.deepcopy(model).unload(), tmp_path / "adapter")
    x = torch.randn(3, 10)
    assert torch.equal(again(x), model(x))


def test_an_architecture_by_its_name_is_the_same_circuit():
    assert QAAConfig(circuit="ring-linear").circuit_for(10) == Architecture(("ring", "linear")).circuit(4)
    config = QAAConfig(circuit="ring-linear", control="classical")
    assert config.parameter_count(10, 20) == 4 * 20 + Architecture(("ring", "linear")).circuit(4).n_angles


def test_a_circuit_of_one_width_serves_that_width_only():
    program = to_openqasm3(ry_ring(4, 2), torch.zeros(8))
    text = CircuitFile(ry_ring(4, 2)).text
    assert QAAConfig(circuit=text).circuit_for(10) == ry_ring(4, 2)
    assert QAAConfig(circuit=program).circuit_for(16).n_wires == 4
    with pytest.raises(KetuneError, match="4 wires and 5 are needed"):
        QAAConfig(circuit=text).circuit_for(20)
    with pytest.raises(KetuneError, match=r"missing\.json"):
        QAAConfig(circuit="missing.json")
    with pytest.raises(KetuneError, match="ketune_circuit"):
        QAAConfig(circuit="{}")


# ---------------------------------------------------------------------------------------- angles from a tensor train


def test_one_tensor_train_emits_the_angles_of_all_layers_and_starts_at_zero(tmp_path):
    base = TwoLayers()
    x = torch.randn(6, 10)
    before = base(x)
    model = adapted(base, angles="tensor_train", train_rank=3)
    assert torch.equal(model(x), before)
    config = model.peft_config["default"]
    shapes = [(10, 20), (20, 2)]
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    angles = sum(config.circuit_for(width).n_angles for width, _ in shapes)
    assert n_trained == config.model_parameter_count(shapes) == 4 * 20 + 5 * 2 + TrainVector.count_parameters(angles, 3)
    updates = [model.get_submodule(f"base_model.model.{name}").update_of("default") for name in LAYERS]
    starts = [update.angles.detach().clone() for update in updates]
    trained(model)
    for update, start in zip(updates, starts):
        assert (update.angles - start).abs().min() > 1e-6
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(model).unload(), tmp_path)
    assert torch.equal(again(x), model(x))
    lazily = PeftModel.from_pretrained(copy.deepcopy(model).unload(), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(lazily(x), model(x))


def test_every_core_of_the_train_learns():
    model = trained(adapted(angles="tensor_train"), n_steps=2)
    (model(torch.randn(8, 10)) - 1).square().mean().backward()
    cores = [p for name, p in model.named_parameters() if "cores" in name]
    assert len(cores) == 3
    assert all(core.grad.abs().max() > 0 for core in cores)


def test_the_train_is_a_slice_of_its_dense_vector():
    train = TrainAngles([5, 7, 3], 2, moved=True)
    whole = contract_train(list(train.vector.cores)).flatten()
    assert torch.equal(train(1), whole[5:12])
    assert TrainVector.count_parameters(15, 2) == sum(core.numel() for core in train.parameters())
    start = TrainAngles([400, 100], 4)
    assert not start(0).any()
    start.vector.cores[-1].data.normal_()
    assert start(0).detach().std().item() == pytest.approx(1, abs=0.6)


def test_it_lives_beside_other_adapters_is_copied_and_added_up():
    model = trained(adapted(angles="tensor_train"))
    model.add_adapter("plain", QAAConfig(target_modules=LAYERS))
    model.add_adapter("other", QAAConfig(target_modules=LAYERS, angles="tensor_train"))
    model.set_adapter("other")
    trained(model, 2)
    x = torch.randn(4, 10)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    with model.disable_adapter():
        plain = model(x)
    layer, inputs = model.get_submodule("base_model.model.lin1"), torch.randn(4, 20)
    parts = [layer.update_of(name)(inputs) for name in ("default", "plain", "other")]
    model.add_weighted_adapter(["default", "plain", "other"], [0.5, 1.0, 2.0], "sum")
    model.set_adapter("sum")
    mixed = layer.update_of("sum").beside(inputs, None, layer)
    assert torch.allclose(mixed, 0.5 * parts[0] + parts[1] + 2.0 * parts[2], atol=1e-6)
    model.delete_adapter("other")
    assert not torch.equal(model(x), plain)


def test_without_a_tuner_it_is_injected_whole():
    model = inject_adapter_in_model(QAAConfig(target_modules=LAYERS, angles="tensor_train"), TwoLayers())
    assert sum("cores" in name for name, _ in model.named_parameters()) == 3
    assert any("cores" in name for name in model.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_starts_at_zero_in_half_precision(dtype):
    base = TwoLayers(dtype)
    x = torch.randn(4, 10, dtype=dtype)
    before = base(x)
    assert torch.equal(adapted(base, angles="tensor_train")(x), before)


def test_controls_without_trained_angles_take_no_train():
    with pytest.raises(ConfigError, match="control='frozen'"):
        QAAConfig(angles="tensor_train", control="frozen")
    model = trained(adapted(angles="tensor_train", control="classical"))
    shapes = [(10, 20), (20, 2)]
    expected = model.peft_config["default"].model_parameter_count(shapes)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


# ---------------------------------------------------------------------------------------------------- learned starts


def batches(n=2):
    torch.manual_seed(3)
    return [{"input_ids": torch.randint(0, 50, (4, 6))} for _ in range(n)]


def test_a_flip_start_gives_each_layer_the_angles_of_its_place(tmp_path):
    decoder = FlipDecoder(PLACE_LENGTH)
    decoder.save(tmp_path / "flip.safetensors")
    config = QAAConfig(target_modules=["q_proj", "down_proj"], init_angles=str(tmp_path / "flip.safetensors"))
    model = get_peft_model(tiny_llama(), config)
    assert config.needs_calibration
    config.calibrate(model, batches(), "default")
    circuits = circuits_of(model, "default")
    places = places_of(list(circuits))
    assert len(circuits) == 4
    for (name, features), place in zip(circuits.items(), places):
        assert torch.allclose(features.angles, decoder(features.circuit, place), atol=1e-6), name
    first, *others = [features.angles for features in circuits.values()]
    assert not any(len(first) == len(other) and torch.allclose(first, other) for other in others)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "flip.safetensors").unlink()
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter")
    for name, features in circuits_of(again, "default").items():
        assert torch.equal(features.angles, circuits[name].angles)


def test_a_q_maml_start_depends_on_what_the_layer_sees(tmp_path):
    n_angles = QAAConfig().circuit_for(24).n_angles
    Learner(PLACE_LENGTH + 24, n_angles).save(tmp_path / "maml.safetensors")
    config = QAAConfig(target_modules=["q_proj"], init_angles=str(tmp_path / "maml.safetensors"))
    found = []
    for rows in (batches(), [{"input_ids": torch.full((2, 5), 7)}]):
        model = get_peft_model(tiny_llama(), config)
        config.calibrate(model, rows, "default")
        found.append(torch.stack([features.angles for features in circuits_of(model, "default").values()]))
    assert (found[0] - found[1]).abs().min() > 0


def test_places_know_depth_and_role():
    names = [f"base_model.model.model.layers.{k}.self_attn.{role}" for k in range(3) for role in ("q_proj", "v_proj")]
    places = places_of(names)
    assert places[:, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert torch.allclose(places[:, 1], (math.pi * places[:, 0]).sin(), atol=1e-6)
    assert (places[:, 3:].sum(1) == 1).all()
    assert not torch.equal(places[0, 3:], places[1, 3:])


def test_a_start_that_does_not_fit_or_is_missing_is_refused(tmp_path):
    FlipDecoder(PLACE_LENGTH + 3).save(tmp_path / "odd.safetensors")
    config = QAAConfig(target_modules=["q_proj"], init_angles=str(tmp_path / "odd.safetensors"))
    with pytest.raises(InitialiserError, match="meta-train one for this model"):
        config.calibrate(get_peft_model(tiny_llama(), config), batches(), "default")
    config = QAAConfig(target_modules=["q_proj"], init_angles=str(tmp_path / "gone.safetensors"))
    with pytest.raises(InitialiserError, match=r"gone\.safetensors"):
        config.calibrate(get_peft_model(tiny_llama(), config), batches(), "default")
    with pytest.raises(ConfigError, match="init_angles='flips'"):
        QAAConfig(init_angles="flips")
