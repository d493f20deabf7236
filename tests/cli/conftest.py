"""The command line in this process: arguments in, exit code and both streams out."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.finetuning.tiny import make_model, make_tokenizer, write_jsonl

from ketune.cli._app import execute


@dataclass
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*arguments: object) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = execute([str(argument) for argument in arguments])
    return Answer(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def ketune() -> Callable[..., Answer]:
    return call


@pytest.fixture(autouse=True)
def _no_width_from_outside(monkeypatch: pytest.MonkeyPatch):
    """pytest-xdist gives its workers a COLUMNS, which stands for a user who wants tables of that width."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in a folder with a blank in its name."""
    folder = tmp_path_factory.mktemp("models") / "tiny model"
    make_model("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 24), ("validation", 4), ("test", 6)):
        rows = [{"prompt": f"the {split} fox {n}:", "completion": f"{n % 5} apples"} for n in range(count)]
        write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


@pytest.fixture(scope="session")
def trained(ketune, model_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """Trains a method once for all tests; returns the folder that `ketune finetune --out` wrote."""
    folders: dict[tuple[str, ...], Path] = {}

    def train(method: str, *more: str) -> Path:
        key = (method, *more)
        if key not in folders:
            out = tmp_path_factory.mktemp("runs") / method
            options = ["--steps", "2", "--batch-size", "4", "--training", "save_steps=0"]
            answer = ketune(
                "finetune", model_folder, "--data", data_folder, "--method", method, "--out", out, *options, *more
            )
            assert answer.code == 0, answer.err
            folders[key] = out
        return folders[key]

    return train
