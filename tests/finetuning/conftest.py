from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.finetuning.tiny import SHARED_DATA, make_model, make_tokenizer, write_jsonl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ketune.finetuning import TaskData, load_task


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models run fastest on one thread, and far faster beside other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer()


@pytest.fixture(params=["llama", "gpt_neox", "gpt_neo", "gpt2"])
def any_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make_model(request.param)


@pytest.fixture
def llama() -> PreTrainedModel:
    return make_model("llama")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    make_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> TaskData:
    """Forty small sums: prompts and answers of uneven length."""
    names = ["fox", "owl", "old oak", "green pear", "seven owls"]
    rows = [
        {"prompt": f"{name} and {n}\n", "completion": f"the {name} ate {'a red apple ' * (n % 3)}by {n}"}
        for name in names
        for n in range(8)
    ]
    return load_task(write_jsonl(tmp_path_factory.mktemp("task") / "rows.jsonl", rows))


@pytest.fixture
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs {SHARED_DATA}")
    return SHARED_DATA
