import math

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from tests.finetuning.tiny import CONTEXT, make_model, make_tokenizer

from ketune.errors import DataError
from ketune.finetuning import evaluate_loss
from ketune.finetuning.metrics import effective_max_length, evaluating

pytestmark = [
    pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]


def by_hand(model, tokenizer, rows) -> tuple[float, int]:
    """Sum of -ln p, one row and one token at a time, from full logits without any padding."""
    nats, n_tokens = 0.0, 0
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        completion = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        for place, token in enumerate(completion, start=len(prompt)):
            nats -= log_probs[place - 1, token].item()
        n_tokens += len(completion)
    return nats, n_tokens


def adapted(model, kind):
    if kind == "none":
        return model
    torch.manual_seed(1)
    if kind == "prefix":
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    else:
        config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, config).eval()


@pytest.mark.parametrize("kind", ["none", "lora", "prefix"])
def test_the_loss_is_the_mean_over_completion_tokens_at_any_batch_size(any_model, tokenizer, task, kind):
    model = adapted(any_model, kind)
    rows = task.train.select(range(11))
    nats, n_tokens = by_hand(model, tokenizer, rows)
    n_bytes = sum(len(row["completion"].encode()) for row in rows)
    for batch_size in (1, 4, 11):
        scores = evaluate_loss(model, tokenizer, rows, batch_size=batch_size)
        assert scores["n_tokens"] == n_tokens
        assert scores["loss"] == pytest.approx(nats / n_tokens, rel=1e-5)
        assert scores["perplexity"] == pytest.approx(math.exp(nats / n_tokens), rel=1e-4)
        assert scores["bits_per_byte"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)


def test_all_references_count_where_asked_for(llama, tokenizer, task):
    rows = task.test.map(lambda row: {"references": [*row["references"], "no, a green pear"]})
    first, every = evaluate_loss(llama, tokenizer, rows), evaluate_loss(llama, tokenizer, rows, all_references=True)
    extra = len(rows) * (len(tokenizer("no, a green pear")["input_ids"]) + 1)
    assert every["n_tokens"] == first["n_tokens"] + extra


def test_cuts_and_drops_are_counted(llama, tokenizer, task):
    rows = task.train.map(lambda row, i: {"prompt": "a " * 90 + "\n" if i == 0 else row["prompt"]}, with_indices=True)
    rows = rows.map(lambda row, i: {"completion": "b " * 200 if i == 1 else row["completion"]}, with_indices=True)
    scores = evaluate_loss(llama, tokenizer, rows)
    assert (scores["n_truncated"], scores["n_dropped"]) == (1, 1)


def test_nothing_to_score_is_an_error(llama, tokenizer, task):
    with pytest.raises(DataError, match="no row is left to score"):
        evaluate_loss(llama, tokenizer, task.test, max_length=3)


def test_modes_and_gradients_come_back(llama, tokenizer, task):
    llama.train()
    llama.lm_head.eval()
    evaluate_loss(llama, tokenizer, task.test)
    assert llama.training
    assert not llama.lm_head.training
    assert torch.is_grad_enabled()
    with pytest.raises(RuntimeError), evaluating(llama):
        raise RuntimeError
    assert llama.training


def test_virtual_tokens_shorten_what_fits():
    model = adapted(make_model("gpt_neo"), "prefix")
    assert effective_max_length(model, None) == CONTEXT - 5
    assert effective_max_length(model, 20) == 20
    long = "fox " * CONTEXT
    from datasets import Dataset

    rows = Dataset.from_dict({"prompt": [long], "completion": ["red apple"]})
    assert evaluate_loss(model, make_tokenizer(), rows)["n_truncated"] == 1


def test_trl_s_loss_and_ours_agree(llama, tokenizer, task):
    from trl.trainer.utils import add_fused_lm_head

    from ketune.finetuning.encoding import Encoder, collate
    from ketune.finetuning.metrics import completion_nats

    rows, _ = Encoder(tokenizer).encode_rows([(row["prompt"], row["completion"]) for row in task.train])
    batch = collate(rows, 0)
    ours = completion_nats(llama, batch) / sum(len(row.completion) for row in rows)
    ours.backward()
    gradient = llama.model.layers[0].self_attn.q_proj.weight.grad.clone()
    llama.zero_grad()
    add_fused_lm_head(llama)
    theirs = llama(**batch, fused_lm_head=True).loss
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.testing.assert_close(llama.model.layers[0].self_attn.q_proj.weight.grad, gradient, rtol=1e-4, atol=1e-7)


def test_bits_per_byte_of_a_known_model_on_its_own_text(shared_data):
    """The model card gives 0.81 bits per character on a TinyStories sample; a plain story must come near that."""
    from datasets import Dataset

    from ketune.finetuning import load_base

    model, tokenizer = load_base(shared_data / "model-gpt-neo-tinystories-3m", device="cpu")
    story = (
        "Once upon a time there was a little girl named Lily. She loved to play outside in the sun. One day, she saw a "
        "big, red ball in the park. She wanted to play with it, but she was too small to reach it."
    )
    scores = evaluate_loss(model, tokenizer, Dataset.from_dict({"prompt": [""], "completion": [story]}))
    assert 0.3 < scores["bits_per_byte"] < 1.2
