"""The circuit head of a sequence classifier: what it reads, trains, saves and refuses; a step of the real Trainer."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from tests.finetuning.tiny import CONTEXT, make_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    Trainer,
    TrainingArguments,
)

from ketune.errors import ModelError
from ketune.finetuning.circuit_head import CircuitHead, CircuitHeadConfig, add_circuit_head

SIZES = {"vocab_size": 320, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1, "num_labels": 3}
SIZES["initializer_range"] = 0.2


def make_classifier(kind="llama"):
    configs = {
        "llama": lambda: LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=CONTEXT, **SIZES,
        ),
        "gpt_neo": lambda: GPTNeoConfig(
            hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
            window_size=CONTEXT, max_position_embeddings=CONTEXT, **SIZES,
        ),
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, **SIZES),
    }  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(configs[kind]()).eval()


def batch(left=False):
    """Three rows of 9, 4 and 6 tokens, padded with token 1."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((3, 9), 1)
    mask = torch.zeros(3, 9, dtype=torch.int64)
    for row, n in enumerate((9, 4, 6)):
        here = slice(9 - n, 9) if left else slice(0, n)
        ids[row, here] = torch.randint(5, 320, (n,), generator=generator)
        mask[row, here] = 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", ["llama", "gpt_neo", "gpt2"])
@pytest.mark.parametrize("left", [False, True])
def test_the_logits_are_those_of_the_last_token_that_is_no_padding(kind, left):
    model = make_classifier(kind)
    head = add_circuit_head(model, n_wires=4, n_layers=1)
    inputs = batch(left)
    seen = []
    head.hybrid.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    out = model(**inputs, output_hidden_states=True)
    assert seen == [(3, 32)]  # one token of each row goes through the circuit, not nine
    last = out.hidden_states[-1][torch.arange(3), torch.tensor([8, 8, 8] if left else [8, 3, 5])]
    torch.testing.assert_close(out.logits, head(last))
    assert out.logits.std() > 1e-4
    assert head(out.hidden_states[-1]).shape == (3, 9, 3)  # outside the model it reads every token


def test_only_the_head_is_trainable_and_its_counts_are_split():
    model = make_classifier()
    head = add_circuit_head(model, n_wires=4, n_layers=2)
    counts = head.count_parameters()
    assert counts.total == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (counts.quantum, counts.encoder, counts.head) == (24, 32 * 4 + 4, 4 * 3 + 3)
    other = add_circuit_head(make_classifier(), n_wires=4, n_layers=2, block="linear").count_parameters()
    assert (other.quantum, other.stand_in, other.total) == (0, 24, counts.total)


@pytest.mark.parametrize("reducer", ["linear", "tt"])
@pytest.mark.parametrize("block", ["circuit", "linear", "frozen", "none"])
def test_a_head_is_saved_and_loaded_whole(tmp_path, reducer, block):
    head = CircuitHead(CircuitHeadConfig(32, 3, n_wires=4, reducer=reducer, block=block, order="entangler_first"))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1)
    head.save_pretrained(tmp_path / "head")
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == [
        "circuit_head.json",
        "circuit_head.safetensors",
    ]
    again = CircuitHead.from_pretrained(tmp_path / "head")
    hidden = torch.randn(5, 32)
    assert again.config == head.config
    assert torch.equal(again(hidden), head(hidden))


def test_a_loaded_head_goes_into_a_model_of_its_width_only(tmp_path):
    head = CircuitHead(CircuitHeadConfig(32, 3, n_wires=4))
    head.save_pretrained(tmp_path)
    model = make_classifier()
    assert add_circuit_head(model, CircuitHead.from_pretrained(tmp_path)) is model.score
    assert add_circuit_head(model, n_wires=5) is model.score  # again, over a circuit head
    with pytest.raises(ModelError, match=r"from width 16 to 3.*width 32"):
        add_circuit_head(model, CircuitHead(CircuitHeadConfig(16, 3, n_wires=4)))


def test_the_head_keeps_float32_in_half_precision_models():
    model = make_classifier()
    head = add_circuit_head(model, n_wires=4)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    model.to(torch.bfloat16)
    assert all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**batch()).logits.dtype == torch.float32


@pytest.mark.parametrize("block", ["circuit", "frozen"])
def test_the_trainer_trains_lora_and_head_and_both_come_back_from_the_folder(tmp_path, block):
    settings = {"n_wires": 3, "n_layers": 2, "block": block, "seed": 1}
    base = make_classifier("gpt_neo")
    add_circuit_head(base, **settings)
    config = LoraConfig(TaskType.SEQ_CLS, r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["score"])
    model = get_peft_model(base, config)
    rows = [
        {"input_ids": row.tolist(), "attention_mask": mask.tolist(), "labels": k}
        for k, (row, mask) in enumerate(zip(*batch().values()))
    ]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert sum("score.modules_to_save.default.hybrid" in name for name in before) == (5 if block == "circuit" else 4)
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=3, per_device_train_batch_size=3, learning_rate=0.05, report_to="none",
        use_cpu=True, save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    tokenizer = make_tokenizer(pad="<pad>")
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}
    assert any("lora_B" in name for name in moved)
    assert any("encoder" in name for name in moved)
    assert any("hybrid.head" in name for name in moved)
    assert any(name.endswith("block.angles") for name in moved) == (block == "circuit")
    assert not any("original_module" in name or name.endswith("q_proj.weight") for name in moved)
    model.save_pretrained(tmp_path / "adapter")
    fresh = make_classifier("gpt_neo")
    add_circuit_head(fresh, **{**settings, "seed": 2})
    again = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**batch()).logits, model.eval()(**batch()).logits)


def test_models_without_a_score_layer_are_refused():
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = AutoModelForSequenceClassification.from_config(BertConfig(**sizes, intermediate_size=16))
    with pytest.raises(ModelError, match="BertForSequenceClassification has no layer 'score'"):
        add_circuit_head(bert)


def test_folders_without_a_whole_head_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no circuit head"):
        CircuitHead.from_pretrained(tmp_path)
    CircuitHead(CircuitHeadConfig(32, 3, n_wires=4)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "circuit_head.json").read_text())
    (tmp_path / "circuit_head.json").write_text(json.dumps({**config, "n_wires": 5}))
    with pytest.raises(ModelError, match="damaged"):
        CircuitHead.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"order='both'.*'rotations_first'"):
        CircuitHeadConfig(32, 3, order="both")
    with pytest.raises(ValueError, match=r"reducer='pca'"):
        CircuitHeadConfig(32, 3, reducer="pca")
