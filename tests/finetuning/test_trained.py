"""Opening, scoring and merging what a training run left; tests/cli runs the same functions from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.finetuning.tiny import make_model, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from ketune.errors import DataError, KetuneError, ModelError
from ketune.finetuning.evaluation import evaluate
from ketune.finetuning.merging import merge
from ketune.finetuning.trained import find_adapter, generate_saved, load_either, load_trained


@pytest.fixture(scope="module")
def run_folder(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `finetune` leaves: a folder with `adapter/` in it, here with weights that are not zero."""
    folder = tmp_path_factory.mktemp("run")
    base = LlamaForCausalLM.from_pretrained(llama_folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False))
    model.save_pretrained(folder / "adapter")
    return folder


def test_an_adapter_is_found_in_its_folder_and_in_the_folder_of_its_run(run_folder):
    assert find_adapter(run_folder) == run_folder / "adapter"
    assert find_adapter(run_folder / "adapter") == run_folder / "adapter"


def test_what_looks_like_a_hub_id_is_one():
    assert find_adapter("owner/adapter") == "owner/adapter"


@pytest.mark.parametrize("place", ["./missing", "/missing/too", "missing", "builtin:base"])
def test_a_folder_that_is_not_there_is_refused(place):
    with pytest.raises(ModelError, match="no such adapter folder"):
        find_adapter(place)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"neither adapter_config.json nor config.json"):
        find_adapter(tmp_path)


def test_the_adapter_comes_with_its_base_and_tokenizer_ready_to_use(run_folder, llama_folder):
    model, tokenizer = load_trained(run_folder)
    assert isinstance(model, PeftModel)
    assert not model.training
    assert tokenizer.pad_token_id is not None
    plain, _ = load_either(None, llama_folder)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert not torch.allclose(model(ids).logits, plain(ids).logits)


def test_a_base_model_of_another_shape_is_refused_in_one_line(run_folder, tmp_path):
    other = LlamaConfig(vocab_size=320, hidden_size=64, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(other).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="does not fit on") as refused:
        load_trained(run_folder, tmp_path)
    assert "\n" not in str(refused.value)


def test_a_whole_model_takes_no_base_model(llama_folder):
    with pytest.raises(ModelError, match="a whole model"):
        load_trained(llama_folder, "another")
    model, _ = load_trained(llama_folder)
    assert not isinstance(model, PeftModel)


def test_temperature_zero_takes_the_most_probable_token_whatever_the_seed(llama_folder):
    first = generate_saved(None, llama_folder, ["the fox"], max_new_tokens=6, seed=1)
    assert first == generate_saved(None, llama_folder, ["the fox"], max_new_tokens=6, seed=2)


def test_an_unknown_split_is_refused(task):
    with pytest.raises(DataError, match="'tests'"):
        evaluate(make_model("llama"), make_tokenizer(), task, split="tests")


def test_evaluate_scores_the_rows_of_the_split_and_the_first_answers(task):
    found = evaluate(make_model("llama"), make_tokenizer(), task, n_generate=2, max_new_tokens=2, n_samples=1)
    assert found.n_rows == len(task.test)
    assert found.n_generated == 2
    assert [sample["prompt"] for sample in found.samples] == [task.test[0]["prompt"]]
    assert {"loss", "perplexity", "bits_per_byte", "bleu", "rougeL", "exact_match"} <= found.scores.keys()


def test_merging_gives_the_outputs_of_the_adapted_model(run_folder, tmp_path):
    done = merge(run_folder, tmp_path / "merged")
    model, _ = load_trained(run_folder)
    merged = LlamaForCausalLM.from_pretrained(done.folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-4)
    assert done.n_bytes == (done.folder / "model.safetensors").stat().st_size


def test_a_merge_that_fails_leaves_nothing(run_folder, tmp_path, monkeypatch):
    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", full_disk)
    with pytest.raises(ModelError, match="No space left"):
        merge(run_folder, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_place_for_a_model(run_folder, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(KetuneError, match="new folder"):
        merge(run_folder, tmp_path / "file")
