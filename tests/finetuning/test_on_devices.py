"""An adapter's circuits on a device: the same loss where the device is exact, another one where it is not."""

import peft
import pytest
import torch
from tests.finetuning.tiny import make_model, make_tokenizer, write_jsonl

from ketune.adapters import QAAConfig, QTHAConfig
from ketune.circuits import DeviceError, DeviceLayer, DeviceRunner
from ketune.errors import DataError, ModelError
from ketune.finetuning.circuits_on import circuits_on
from ketune.finetuning.data import load_task
from ketune.finetuning.metrics import evaluate_loss
from ketune.finetuning.on_devices import noise_figure, plan_on_device


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split, texts in {"train": ("red", "green"), "test": ("two", "a green", "old")}.items():
        rows = [{"prompt": f"{text} fox:", "completion": f"{text} oak"} for text in texts]
        write_jsonl(folder / f"{split}.jsonl", rows)
    return load_task(folder)


def adapted(config):
    """A tiny model with an adapter that does something already."""
    model = peft.get_peft_model(make_model("llama"), config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spread = 1.0 if "turns" in name or "angles" in name else 0.3
            parameter.data.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return model.eval()


QAA = QAAConfig(target_modules=["q_proj"])


@pytest.mark.parametrize("config", [QAA, QTHAConfig(target_modules=["q_proj"])], ids=["qaa", "qtha"])
@pytest.mark.parametrize("device", ["statevector", "aer"])
def test_an_exact_device_gives_the_loss_of_the_simulator(data, config, device):
    model, tokenizer = adapted(config), make_tokenizer(pad="<pad>")
    found = plan_on_device(model, tokenizer, data, device=device, n_prompts=2, max_length=16).run()
    rows = data.test.select(range(2))
    reference = evaluate_loss(model, tokenizer, rows, max_length=16)
    assert found.exact_loss == pytest.approx(reference["loss"], abs=1e-5)
    assert found.n_tokens == reference["n_tokens"]
    (point,) = found.points
    assert point.change == pytest.approx(0, abs=1e-5)


def test_circuits_are_counted_by_token_and_layer_without_padding(data):
    model, tokenizer = adapted(QAA), make_tokenizer(pad="<pad>")
    plan = plan_on_device(model, tokenizer, data, shots=(None, 100), noise=(0.0, 0.1), n_prompts=2, max_length=16)
    n_tokens = int(plan.batch["attention_mask"].sum())
    assert n_tokens < plan.batch["attention_mask"].numel()  # one row is padded
    assert plan.n_circuits == 4 * 2 * n_tokens
    rows = []
    for device in plan.devices.values():
        original = device._run

        def counted(programs, options, original=original):
            rows.extend(program.n_rows for program in programs)
            return original(programs, options)

        device._run = counted
    plan.run()
    assert sum(rows) == plan.n_circuits


def test_noise_and_shots_change_the_loss_and_seeds_repeat_it(data):
    model, tokenizer = adapted(QAA), make_tokenizer(pad="<pad>")
    options = {"shots": (None, 20), "noise": (0.0, 0.2), "n_prompts": 1, "max_length": 12}
    first, second = (plan_on_device(model, tokenizer, data, **options).run() for _ in range(2))
    changes = {(point.noise, point.shots): point.change for point in first.points}
    assert abs(changes[0.0, None]) < 1e-5
    assert all(abs(change) > 1e-4 for place, change in changes.items() if place != (0.0, None))
    assert [point.loss for point in first.points] == [point.loss for point in second.points]
    assert len(noise_figure(first).axes[0].get_lines()) == 3  # one for each number of shots, and zero


def test_the_model_is_as_before_afterwards(data):
    model = adapted(QTHAConfig(target_modules=["q_proj"]))
    before = dict(model.named_modules())
    with circuits_on(model, DeviceRunner("statevector")):
        assert any(isinstance(module, DeviceLayer) for module in model.modules())
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize(
    ("config", "options", "error", "words"),
    [
        (peft.LoraConfig(target_modules=["q_proj"]), {}, ModelError, "no circuit that reads its input"),
        (QAA, {"device": "statevector", "noise": (0.1,)}, DeviceError, "only 'aer' takes noise"),
        (QAA, {"n_prompts": 0}, DeviceError, "n_prompts=0"),
        (QAA, {"device": "generic:5"}, DeviceError, "pass shots="),
        (QAA, {"max_length": 2}, DataError, "no row of test fits"),
        (
            QAAConfig(target_modules=["q_proj"], readout="amplitudes"),
            {},
            DeviceError,
            "'amplitudes' cannot be measured",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(data, config, options, error, words):
    with pytest.raises(error, match=words):
        plan_on_device(adapted(config), make_tokenizer(pad="<pad>"), data, **options)
