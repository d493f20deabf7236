import logging

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from tests.finetuning.tiny import CONTEXT, make_model, make_tokenizer

from ketune.errors import DataError
from ketune.finetuning import generate

pytestmark = [
    pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]

PROMPTS = ["the fox ate\n", "a\n", "seven owls slept in two old oaks by the river\n", "Answer: "]


def greedy_by_hand(model, tokenizer, prompt, n):
    """One token at a time, without cache, padding or generate()."""
    ids = tokenizer(prompt.rstrip(" "))["input_ids"]
    written = []
    for _ in range(n):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        written.append(token)
    return tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", ["none", "lora", "prefix"])
def test_greedy_texts_are_those_of_a_plain_loop_at_any_batch_size(any_model, tokenizer, kind):
    model = any_model
    if kind != "none":
        torch.manual_seed(3)
        config = (
            PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
            if kind == "prefix"
            else LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
        )
        model = get_peft_model(model, config).eval()
    wanted = [greedy_by_hand(model, tokenizer, prompt, 8) for prompt in PROMPTS]
    assert any(wanted)
    for batch_size in (1, 2, 4):
        assert generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=batch_size) == wanted


def test_a_text_stops_at_its_end_of_text_token(llama, tokenizer):
    target = tokenizer("fox")["input_ids"][0]
    bias = torch.zeros(320)

    class Head(torch.nn.Linear):
        def forward(self, hidden):
            return bias.expand(*hidden.shape[:-1], 320)

    llama.lm_head.__class__ = Head
    bias[target] = 1.0
    assert len(generate(llama, tokenizer, ["a\n"], max_new_tokens=5)[0]) > 0
    bias[tokenizer.eos_token_id] = 2.0
    assert generate(llama, tokenizer, ["a\n"], max_new_tokens=5) == [""]


def test_samples_depend_on_the_seed_and_leave_the_global_generator_alone(llama, tokenizer):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = generate(llama, tokenizer, PROMPTS, sample=True, max_new_tokens=12, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert generate(llama, tokenizer, PROMPTS, sample=True, max_new_tokens=12, seed=1) == first
    assert generate(llama, tokenizer, PROMPTS, sample=True, max_new_tokens=12, seed=2) != first


def test_a_tiny_nucleus_is_greedy(llama, tokenizer):
    greedy = generate(llama, tokenizer, PROMPTS, max_new_tokens=8)
    assert generate(llama, tokenizer, PROMPTS, sample=True, top_p=1e-6, max_new_tokens=8) == greedy


def test_mode_padding_side_and_order_are_as_they_were(llama):
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "right"
    llama.train()
    texts = generate(llama, tokenizer, PROMPTS, max_new_tokens=4)
    assert tokenizer.padding_side == "right"
    assert llama.training
    assert generate(llama, tokenizer, PROMPTS[::-1], max_new_tokens=4) == texts[::-1]


def test_prompts_beyond_the_context_are_cut_from_the_left_with_a_warning(llama, tokenizer, caplog):
    long = "the fox ate a red apple " * 20 + "\n"
    kept = tokenizer(long)["input_ids"][-(CONTEXT - 8) :]
    with caplog.at_level(logging.WARNING, logger="ketune"):
        texts = generate(llama, tokenizer, [long], max_new_tokens=8)
    assert "1 of 1 prompts cut" in caplog.text
    assert texts == [greedy_by_hand(llama, tokenizer, tokenizer.decode(kept), 8)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"sample": True, "temperature": 0.0}, "temperature=0.0"),
        ({"sample": True, "top_p": 1.5}, "top_p=1.5"),
        ({"max_new_tokens": CONTEXT}, "leaves no room"),
    ],
)
def test_settings_out_of_range_are_refused(llama, tokenizer, options, words):
    with pytest.raises(DataError, match=words):
        generate(llama, tokenizer, ["a"], **options)


def test_no_prompts_give_no_texts(tokenizer):
    assert generate(make_model("gpt2"), tokenizer, []) == []
