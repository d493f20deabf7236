"""ZeroQAT: what is prepared and trains, that training helps, and that what is trained can be converted and saved."""

import pytest
import torch
from tests.quantization.models import LAYOUTS, make_model, tokens
from transformers import AutoModelForCausalLM, TrainingArguments

from ketune.finetuning.zeroth_order import ZerothOrderTrainer
from ketune.quantization import CodedLinear, QuantizationError, QuantizeConfig, QuantizedLinear, quantize_
from ketune.quantization.layouts import layout_of
from ketune.quantization.zeroqat import ZeroQATConfig, prepare_zeroqat_, quantizer_steps, zeroth_order


def prepared(name="llama", scheme="w4a4", seed=0, model=None, **options):
    torch.manual_seed(seed)
    model = make_model(name, initializer_range=0.2)
    report = prepare_zeroqat_(model, ZeroQATConfig(scheme, **options), [tokens(2, 16) for _ in range(4)])
    return model, report


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def train(model, n_steps, **options):
    """Returns the loss before and after."""
    torch.manual_seed(1)
    ids = tokens(8, 16)
    optimizer = zeroth_order(model, **options)

    def loss():
        return model(ids, labels=ids, use_cache=False).loss

    with torch.no_grad():
        before = loss().item()
        for _ in range(n_steps):
            optimizer.step(loss)
        return before, loss().item()


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_weights_of_quantised_layers_train_and_nothing_else(name):
    model, report = prepared(name)
    layers = {f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    assert trained_names(model) == set(layers)
    assert report.n_trained == sum(weight.numel() for weight in layers.values())
    assert len(report.blocks) == 2
    assert all(block.after <= block.before for block in report.blocks)
    assert any(block.after < block.before for block in report.blocks)
    assert "errors of blocks" in str(report)
    assert report.to_dict()["blocks"][0]["name"] == layout_of(model).blocks[0].name


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_lightweight_variant_keeps_query_and_value_and_codes_the_rest(name):
    torch.manual_seed(0)
    whole, _ = prepared(name)
    light, report = prepared(name, lightweight=True)
    kept = {n for block in layout_of(light).blocks for n in (block.query.linear, block.value.linear)}
    assert trained_names(light) == {f"{n}.weight" for n in kept}
    assert report.n_trained == sum(light.get_parameter(f"{n}.weight").numel() for n in kept)
    kinds = {
        type(m) for n, m in light.named_modules() if isinstance(m, QuantizedLinear | CodedLinear) and n not in kept
    }
    assert kinds == {CodedLinear}
    ids = tokens()
    with torch.no_grad():
        torch.testing.assert_close(light(ids).logits, whole(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize(("lightweight", "gain"), [(False, 0.15), (True, 0.05)])
@pytest.mark.parametrize("seed", [0, 1])
def test_training_lowers_the_loss_of_the_quantised_model(lightweight, gain, seed):
    model, _ = prepared(lightweight=lightweight, seed=seed)
    before, after = train(model, 150, lr=0.1, n_probes=2, seed=seed)
    assert after < before - gain


def test_frozen_codes_and_parameters_stay_bit_for_bit():
    model, _ = prepared(lightweight=True)
    trained = trained_names(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, 5, lr=1.0)
    after = model.state_dict()
    assert {n for n, v in before.items() if not torch.equal(after[n], v)} == trained
    assert any(name.endswith(".codes") for name in before)


@pytest.mark.parametrize("scheme", ["w4a4", "w2a16g16"])
def test_a_perturbation_of_a_tenth_of_a_step_changes_about_a_fifth_of_the_codes(scheme):
    """Both sides are 2 epsilon |u| steps apart, and E|u| = sqrt(2 / pi): 0.16 of the codes, and the grid moves too."""
    model, _ = prepared(scheme=scheme, clipping=False)
    optimizer = zeroth_order(model, epsilon=0.1)
    seen = []

    def loss():
        seen.append([m.quantized_weight().codes.int() for m in model.modules() if isinstance(m, QuantizedLinear)])
        return 0.0

    optimizer.step(loss)
    differ = torch.cat([(a != b).float().flatten() for a, b in zip(*seen)])
    assert 0.16 < differ.mean() < 0.25


def test_the_scale_of_a_weight_is_its_quantiser_s_step():
    model, _ = prepared(scheme="w2a16g16", trained=["q_proj.weight", "input_layernorm.weight"])
    layer = model.model.layers[0].self_attn.q_proj
    steps = quantizer_steps(model)
    assert torch.equal(steps(layer.weight), layer.quantized_weight().scale)
    assert steps(layer.weight).shape == (32, 2)
    assert steps(model.model.layers[0].input_layernorm.weight) == 0.01
    assert len(zeroth_order(model).param_groups[0]["params"]) == 4


def test_what_trains_is_a_filter():
    suffixes, _ = prepared(trained=["down_proj.weight"], epochs=0)
    assert trained_names(suffixes) == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)}
    pattern, report = prepared(trained=r"model\.norm\..*|.*layers\.1\.mlp\.up_proj\.weight", epochs=0)
    assert trained_names(pattern) == {"model.norm.weight", "model.layers.1.mlp.up_proj.weight"}
    assert report.blocks == ()
    assert str(report) == f"{32 + 32 * 48:,} weights train"
    clipping, _ = prepared(trained=r".*clipping\.(low|high)")
    before, after = train(clipping, 8, lr=30.0)  # far enough that codes change, on any processor
    assert before != after


def test_smoothing_is_for_quantised_activations():
    assert ZeroQATConfig("w4a4").smoothing is True
    assert ZeroQATConfig("w2a16g128").smoothing is False
    assert ZeroQATConfig("w2a16g128", smoothing=True).smoothing is True
    model, _ = prepared(scheme="w4a16")
    assert model.model.layers[0].self_attn.q_proj.bias is None


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("lightweight", [False, True])
def test_the_trained_model_is_converted_saved_and_loaded_to_the_same_logits(name, lightweight, tmp_path):
    model, _ = prepared(name, "w4a4kv4", lightweight=lightweight, quantize_queries=True)
    train(model, 2, lr=1.0)
    ids = tokens()
    with torch.no_grad():
        expected = model(ids).logits
    quantize_(model, QuantizeConfig("w4a4kv4", step="convert"))
    assert not any(isinstance(m, QuantizedLinear) for m in model.modules())
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0)
        torch.testing.assert_close(again(ids).logits, expected, rtol=0, atol=0)


def test_a_resumed_training_ends_bit_for_bit_where_an_uninterrupted_one_ends(tmp_path):
    data = [{"input_ids": row, "labels": row} for row in tokens(24, 12)]

    def run(folder, resume=None):
        model, _ = prepared(lightweight=True)
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=4,
            per_device_train_batch_size=4,
            save_steps=2,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = ZerothOrderTrainer(
            model=model, args=arguments, train_dataset=data, optimizers=(zeroth_order(model, 0.1), None)
        )
        trainer.train(resume_from_checkpoint=resume)
        return model.state_dict()

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoint-2"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_what_cannot_be_done_is_refused():
    with pytest.raises(QuantizationError, match="weights must be quantised"):
        ZeroQATConfig("w16a4")
    with pytest.raises(QuantizationError, match=r"epochs=-1\): must be 0 or more"):
        ZeroQATConfig(epochs=-1)
    with pytest.raises(QuantizationError, match=r"bfloat16; .* load the model in float32"):
        prepare_zeroqat_(make_model("llama").bfloat16(), ZeroQATConfig(), [tokens()])
    with pytest.raises(QuantizationError, match="fits no parameter of this model; with lightweight=True"):
        prepared(lightweight=True, trained=["up_proj.weight"])
    with pytest.raises(QuantizationError, match="call prepare_zeroqat_ first"):
        zeroth_order(make_model("llama").requires_grad_(False))
    with pytest.raises(QuantizationError, match="at least one batch"):
        prepare_zeroqat_(make_model("llama"), ZeroQATConfig())
