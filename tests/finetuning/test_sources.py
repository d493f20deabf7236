import json

import pytest
from datasets import Dataset
from tests.finetuning.tiny import write_jsonl

from ketune.errors import DataError
from ketune.finetuning.sources import find_file_sets, read_files, read_hub, split_of


@pytest.mark.parametrize(
    ("name", "split", "rest"),
    [
        ("train.jsonl", "train", ""),
        ("cleaned_devel.jsonl", "validation", "cleaned"),
        ("train.qa.jsonl", "train", "qa"),
        ("val.csv", "validation", ""),
        ("lora_valid.jsonl", "validation", "lora"),
        ("ARC-Challenge.test.jsonl", "test", "ARC-Challenge"),
        ("dev_out_of_domain.jsonl", "validation", "out_of_domain"),
        ("train-00001-of-00003.parquet", "train", ""),
        ("extra_selected.jsonl", None, "extra_selected"),
        ("Training.tsv", "train", ""),
        ("contest.jsonl", None, "contest"),
    ],
)
def test_split_is_read_from_words_of_the_file_name(name, split, rest):
    assert split_of(name) == (split, rest)


def test_shards_of_a_split_belong_together(tmp_path):
    for i in range(2):
        write_jsonl(tmp_path / f"train-0000{i}-of-00002.jsonl", [{"text": str(i)}])
    (sets, without_split) = find_file_sets(tmp_path)
    assert without_split == []
    assert [len(paths) for paths in sets[0].files.values()] == [2]
    assert sorted(read_files(sets[0].files["train"])["text"]) == ["0", "1"]


def test_one_file_without_a_split_in_its_name_is_the_training_split(tmp_path):
    write_jsonl(tmp_path / "everything.jsonl", [{"text": "a"}])
    sets, _ = find_file_sets(tmp_path)
    assert list(sets[0].files) == ["train"]


def test_all_formats_give_the_same_rows(tmp_path):
    rows = [{"question": "NA", "answer": "null"}, {"question": 'say "a, b"', "answer": "ü"}]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    write_jsonl(tmp_path / "b.jsonl", rows)
    Dataset.from_list(rows).to_parquet(tmp_path / "c.parquet")
    (tmp_path / "d.csv").write_text('question,answer\nNA,null\n"say ""a, b""",ü\n', encoding="utf-8")
    (tmp_path / "e.tsv").write_text('question\tanswer\nNA\tnull\nsay "a, b"\tü\n', encoding="utf-8")
    for path in sorted(tmp_path.iterdir()):
        assert read_files([path]).to_list() == rows, path.name


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"a": 1}\nnonsense\n', "cannot be read as json"),
        ("a.txt", "text", r"cannot read files that end in '\.txt'"),
        ("a.csv", "x,y\n", "holds no rows"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        read_files([tmp_path / name])
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_data_says_what_it_looked_for(tmp_path):
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(DataError, match=r"no data file.*\.jsonl"):
        find_file_sets(tmp_path)


def test_a_hub_id_that_cannot_be_reached_gives_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'someone/data' on the Hub (ConnectionError)\nmore lines")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(DataError, match=r"'someone/data'.*check the path, or the network") as caught:
        read_hub("someone/data")
    assert "\n" not in str(caught.value)


def test_splits_of_a_hub_data_set_are_told_by_their_names(monkeypatch):
    rows = Dataset.from_dict({"text": ["a"]})
    monkeypatch.setattr("datasets.load_dataset", lambda path, name: {"train": rows, "validation_matched": rows})
    assert list(read_hub("someone/data:configuration")) == ["train", "validation"]
