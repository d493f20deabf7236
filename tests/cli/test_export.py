"""export: adapters of a training run as plain ones, on a tiny model."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file
from tests.cli.test_training_commands import refusal


def loss(ketune, adapter, data_folder):
    return ketune("evaluate", "--adapter", adapter, "--data", data_folder, "--n-generate", "0", "--json").json["scores"]


@pytest.mark.parametrize("method", [("quantum_peft",), ("qaa", "--set", "readout=amplitudes")])
def test_an_exact_lora_has_the_same_loss_and_says_where_it_lies(ketune, trained, data_folder, tmp_path, method):
    out = tmp_path / "as lora"
    answer = ketune("export", "--adapter", trained(*method), "--out", out)
    assert answer.code == 0, answer.err
    assert f"{method[0]} -> lora adapter" in answer.out
    assert "q_proj" in answer.out
    assert "Largest error" in answer.out
    assert answer.out.endswith(f"saved: {out}\n")
    assert json.loads((out / "adapter_config.json").read_text())["peft_type"] == "LORA"
    before = loss(ketune, trained(*method), data_folder)["loss"]
    assert loss(ketune, out, data_folder)["loss"] == pytest.approx(before, abs=1e-5)


def test_a_rank_cuts_and_json_holds_the_error_of_every_layer(ketune, trained, tmp_path):
    found = ketune("export", "-a", trained("quanta"), "--rank", "3", "-o", tmp_path / "cut", "--json").json
    conversion = found["conversion"]
    assert (found["method"], found["kind"], found["folder"]) == ("quanta", "lora", str(tmp_path / "cut"))
    assert set(conversion["ranks"].values()) == {3}
    assert conversion["errors"].keys() == conversion["ranks"].keys()
    assert 1e-3 < conversion["error"] < max(conversion["errors"].values()) < 1
    tensors = load_file(tmp_path / "cut" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == conversion["n_parameters"]
    share = ketune("export", "-a", trained("quanta"), "--rank", "0.9", "-o", tmp_path / "share", "--json").json
    assert 1e-3 < share["conversion"]["error"] <= 0.1**0.5


def test_a_plain_export_of_qpa_has_no_error(ketune, trained, data_folder, tmp_path):
    run = trained("qpa", "--size", "64")
    found = ketune("export", "--adapter", run, "--to", "plain", "--out", tmp_path / "plain", "--json").json
    assert (found["method"], found["kind"], found["conversion"]) == ("qpa", "lora", None)
    before = loss(ketune, run, data_folder)["loss"]
    assert loss(ketune, tmp_path / "plain", data_folder)["loss"] == pytest.approx(before, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("qaa", [], ["readout='amplitudes'"]),
        ("prefix", [], ["PrefixTuningConfig", "beside the text"]),
        ("full", [], ["all weights were trained"]),
        ("lora", ["--to", "plain"], ["needs a QPA adapter"]),
        ("lora", ["--to", "onnx"], ["'onnx'", "'lora'", "'plain'"]),
        ("lora", ["--to", "plain", "--rank", "4"], ["rank=4", "exact"]),
        ("lora", ["--rank", "many"], ["--rank 'many'", "16", "0.99"]),
        ("lora", ["--rank", "0"], ["rank=0", "from 1 to"]),
        ("lora", ["--rank", "nan"], ["rank=nan"]),
    ],
)
def test_what_cannot_be_exported_says_why_and_writes_nothing(ketune, trained, tmp_path, method, options, words):
    refusal(ketune("export", "--adapter", trained(method), *options, "--out", tmp_path / "out"), *words)
    assert not list(tmp_path.iterdir())


def test_export_writes_over_nothing(ketune, trained, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    refusal(ketune("export", "--adapter", trained("lora"), "--out", tmp_path), "new folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
