import pytest
import torch
from tests.finetuning.tiny import make_tokenizer

from ketune.errors import DataError
from ketune.finetuning.encoding import IGNORED, Encoder, EncodingReport, collate


def encode(tokenizer, prompt, completion, max_length=64):
    report = EncodingReport()
    return Encoder(tokenizer, max_length).encode(prompt, completion, report), report


def test_prompt_tokens_are_the_same_in_training_and_in_generation(tokenizer):
    encoder = Encoder(tokenizer)
    for prompt in ("a fox\n", "Answer: ", "what is 2+2", "  two "):
        ((row,), _) = encode(tokenizer, prompt, "red apple")
        assert row.prompt == encoder.prompt(prompt)[0]


def test_a_completion_ends_with_the_end_of_text_token_which_counts_in_the_loss(tokenizer):
    ((row,), _) = encode(tokenizer, "a fox\n", "red apple")
    assert row.completion[-1] == tokenizer.eos_token_id
    assert row.labels == [IGNORED] * len(row.prompt) + row.completion


def test_a_blank_at_the_end_of_the_prompt_moves_to_the_completion(tokenizer):
    ((row,), _) = encode(tokenizer, "Answer: ", "red")
    assert tokenizer.decode(row.prompt) == "Answer:"
    assert tokenizer.decode(row.completion[:-1]) == " red"
    assert row.n_bytes == 3
    ((row,), _) = encode(tokenizer, "Answer:\n", "red")
    assert tokenizer.decode(row.completion[:-1]) == "red"


def test_long_prompts_lose_their_left_end_and_completions_nothing(tokenizer):
    full = Encoder(tokenizer).prompt("one two three four five six seven\n")[0]
    ((row,), report) = encode(tokenizer, "one two three four five six seven\n", "red apple", max_length=12)
    assert len(row) == 12
    assert row.prompt == full[-len(row.prompt) :]
    assert tokenizer.decode(row.completion[:-1]) == "red apple"
    assert (report.n_truncated, report.n_cut_tokens) == (1, len(full) - len(row.prompt))
    assert report.notes("train", 12) == [
        f"train: 1 prompts cut from the left to fit 12 tokens ({report.n_cut_tokens} tokens in all)"
    ]


def test_the_begin_of_text_token_survives_the_cut():
    tokenizer = make_tokenizer(bos="<s>")
    ((row,), _) = encode(tokenizer, "one two three four five six seven\n", "red", max_length=8)
    assert row.prompt[0] == tokenizer.bos_token_id
    assert row.prompt.count(tokenizer.bos_token_id) == 1
    assert len(row) == 8


def test_a_row_whose_completion_alone_is_too_long_is_dropped_and_counted(tokenizer):
    rows, report = encode(tokenizer, "a\n", "red apple " * 20, max_length=12)
    assert rows == []
    assert report.n_dropped == 1
    assert "1 rows dropped" in report.notes("train", 12)[0]


def test_long_text_without_a_prompt_is_split_and_nothing_is_lost(tokenizer):
    text = "red apple and green pear " * 10
    rows, report = encode(tokenizer, "", text.strip(), max_length=16)
    tokens = [token for row in rows for token in row.completion]
    assert tokenizer.decode(tokens[:-1]) == text.strip()
    assert all(len(row) <= 16 and len(row.prompt) == 1 for row in rows)
    assert sum(row.n_bytes for row in rows) == len(text.strip())
    assert report.n_chunked == 1


def test_padding_is_masked_even_where_its_token_is_the_end_of_text(tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    encoder, report = Encoder(tokenizer), EncodingReport()
    rows = encoder.encode("a\n", "red apple", report) + encoder.encode("a fox ate\n", "seven", report)
    for side in ("left", "right"):
        batch = collate(rows, tokenizer.pad_token_id, side)
        assert batch["attention_mask"].sum(1).tolist() == [len(row) for row in rows]
        assert (batch["labels"] != IGNORED).sum(1).tolist() == [len(row.completion) for row in rows]
        ends = (batch["labels"] == tokenizer.eos_token_id).sum(1)
        assert ends.tolist() == [1, 1]
        for i, row in enumerate(rows):
            kept = batch["attention_mask"][i].bool()
            assert batch["input_ids"][i][kept].tolist() == row.prompt + row.completion
            assert torch.equal(batch["input_ids"][i][~kept], torch.full_like(batch["input_ids"][i][~kept], 0))


def test_a_length_that_holds_nothing_is_refused(tokenizer):
    with pytest.raises(DataError, match="max_length=1"):
        Encoder(tokenizer, 1)


def test_a_real_tokenizer_round_trips_prompt_and_completion(shared_data):
    from ketune.finetuning.base import load_tokenizer

    for name in ("model-llama-stories-260k", "model-gpt-neo-tinystories-3m"):
        tokenizer = load_tokenizer(shared_data / name)
        ((row,), _) = encode(tokenizer, "Summary: a girl finds a lost cat.\nStory: ", "Once upon a time")
        text = tokenizer.decode(row.prompt + row.completion, skip_special_tokens=True)
        assert text.strip() == "Summary: a girl finds a lost cat.\nStory: Once upon a time"


def test_a_prompt_of_blanks_still_gives_a_token_to_start_from(tokenizer):
    ((row,), _) = encode(tokenizer, "  ", "red")
    assert row.prompt == [tokenizer.eos_token_id]
    assert tokenizer.decode(row.completion[:-1]) == " red"


def test_an_end_of_text_token_written_out_in_the_data_counts_once(tokenizer):
    ((plain,), _) = encode(tokenizer, "a\n", "red apple")
    ((written,), _) = encode(tokenizer, "a\n", "red apple<end>")
    assert plain == written
