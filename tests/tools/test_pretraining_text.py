"""The tool that pre-trains the bundled model: what it makes of book files, and what survives a kill."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


def test_wrapped_lines_are_joined_where_blank_lines_part_paragraphs():
    from pretraining_text import paragraphs

    text = "\n".join(["word " * 13 + "end"] * 3 + [""] + ["more " * 13] * 2 + ["", "last."])
    assert [len(p.split()) for p in paragraphs(text)] == [42, 26, 1]


def test_long_lines_are_paragraphs():
    from pretraining_text import paragraphs

    text = "\n".join(["a " * 150, "b " * 100, "c " * 120] * 4)
    assert len(paragraphs(text)) == 12


def test_without_blank_lines_a_short_last_line_ends_a_paragraph():
    from pretraining_text import paragraphs

    full = "and so they went on over the hills until the sun had gone and it wa"
    assert len(full) == 67
    text = "\n".join(([full] * 40 + ["s dark."]) * 3 + [full] * 40)
    result = paragraphs(text)
    assert len(result) == 4
    assert result[0].endswith("s dark.")


def test_quotes_dashes_and_blanks_become_plain():
    from pretraining_text import paragraphs

    assert paragraphs("“It’s\xa0he” —\tso\u2003 ſhe said") == ['"It\'s he" -- so\u2003 she said']


def test_an_empty_file_has_no_paragraph():
    from pretraining_text import paragraphs

    assert paragraphs("\r\n\r\n") == []


def test_a_folder_without_the_held_out_novels_is_refused(tmp_path):
    from pretraining_text import read_novels

    with pytest.raises(FileNotFoundError, match=r"Trollope_Warden_1855\.txt; pass the folder"):
        read_novels(tmp_path)


def test_an_epoch_visits_each_window_once():
    from pretrain_base import CONTEXT, batch_at

    stream = torch.arange(CONTEXT * 42)
    n_steps = (42 - 2) // 4
    batches = [batch_at(stream, step, 4, seed=0) for step in range(n_steps)]
    firsts = torch.cat(batches)[:, 0]
    assert all(batch.shape == (4, CONTEXT + 1) for batch in batches)
    assert len(firsts.unique()) == n_steps * 4
    assert len((firsts % CONTEXT).unique()) == 1
    assert (torch.cat(batches).diff(dim=1) == 1).all()
    # the next epoch cuts elsewhere and in another order
    assert not torch.equal(batch_at(stream, n_steps, 4, seed=0), batches[0])
    assert torch.equal(batch_at(stream, 3, 4, seed=0), batches[3])


def test_pasted_windows_hold_a_passage_twice_and_the_others_stay():
    from pretrain_base import paste_passages

    windows = torch.arange(3 * 257).view(3, 257)
    pasted = paste_passages(windows, 2, torch.Generator().manual_seed(0))
    assert torch.equal(pasted[2], windows[2])
    for row, original in zip(pasted[:2], windows[:2]):
        n_lost = 257 - len(row.unique())
        assert 24 <= n_lost <= 112
        changed = (row != original).nonzero().flatten()
        assert len(changed) == n_lost
        assert (row[changed].diff() == 1).all()  # one passage, in its order
        assert torch.equal(row[:128], original[:128])


def test_a_batch_holds_records_in_its_last_windows():
    from pretrain_base import CONTEXT, mixed_batch

    novels, records = torch.zeros(CONTEXT * 80, dtype=torch.int16), torch.ones(CONTEXT * 20, dtype=torch.int16)
    batch = mixed_batch(novels, records, step=0, batch=32, seed=0, pasted=0.5)
    assert batch.shape == (32, CONTEXT + 1)
    assert batch[:26].eq(0).all()
    assert batch[26:].eq(1).all()


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    from pretrain_base import WARMUP_STEPS, Schedule

    schedule = Schedule(steps=1000, until=None, started=0.0, decay=0.25)
    factors = [schedule.factor(step) for step in range(1001)]
    assert factors[0] == 1 / WARMUP_STEPS
    assert set(factors[WARMUP_STEPS - 1 : 751]) == {1.0}
    assert factors[875] == pytest.approx(0.5)
    assert factors[1000] == 0


def test_bits_per_character_of_a_uniform_model_are_those_of_the_alphabet():
    from pretrain_base import build_model
    from pretraining_export import bits_per_character

    model = build_model(seed=0)
    torch.nn.init.zeros_(model.lm_head.weight)  # tied, so every logit is zero
    for n_tokens in (2, 129, 256, 257, 258, 700):
        streams = {"x": torch.zeros(n_tokens, dtype=torch.int16)}
        bits = bits_per_character(model, streams, {"x": n_tokens - 1}, tokenizer=None)
        assert bits["x"] == pytest.approx(11.0, rel=1e-5)  # log2(2048), once per token


def test_help_shows_examples(capsys, monkeypatch):
    import pretrain_base

    monkeypatch.setattr(sys, "argv", ["pretrain_base.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        pretrain_base.main()
    assert "python tools/pretrain_base.py --novels" in capsys.readouterr().out


def test_the_card_is_written_from_the_record_beside_the_weights(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    import pretrain_base

    save_file({"a": torch.zeros(3, 1000), "b": torch.zeros(45)}, tmp_path / "model.safetensors")
    bits = {"Author_Title_1900": 1.75, "Other_Book_1850": 1.25}
    record = {
        **dict.fromkeys(("novel_tokens", "novel_characters", "record_tokens", "record_documents"), 1000),
        "steps": 400,
        "decay_step": 300,
        "batch": 32,
        "context": 256,
        "seed": 0,
        "tokens_seen": 3000,
        "threads": 1,
        "hours": 0.5,
        "device": "a loom",
        "date": "1850-01-01",
        "versions": {"torch": "0"},
        "finished": True,
        "notes": ["It was raining."],
        "bits_per_character": bits,
        "excerpts_float32": bits,
        "excerpts_float16": bits,
    }
    (tmp_path / "training.json").write_text(json.dumps(record))
    arguments = ["--novels", ".", "--scratch", str(tmp_path), "--out", str(tmp_path), "--card-only"]
    monkeypatch.setattr(sys, "argv", ["pretrain_base.py", *arguments])
    pretrain_base.main()
    card = (tmp_path / "README.md").read_text()
    assert "3,045 parameters" in card
    assert "| Author, Title, 1900 | 1.750 |" in card
    assert "| mean | 1.500 |" in card
    assert "--steps 400 --decay 0.250" in card
    assert "1.50 of the\ntext" in card
    assert "\nIt was raining.\n" in card
    assert "unfinished" not in card
