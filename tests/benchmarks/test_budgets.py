"""The benchmark of small budgets: it runs, resumes, and its table says what the results say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.comparison.conftest import build_model, build_tokenizer, write_data

from ketune.comparison.summary import summarize_comparison

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "budgets.py"
pytestmark = pytest.mark.slow


def run(*arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_budgets_run_resume_and_end_in_a_table(tmp_path: Path) -> None:
    model, data, out = tmp_path / "model", tmp_path / "data", tmp_path / "out"
    build_model().save_pretrained(model)
    build_tokenizer().save_pretrained(model)
    write_data(data)
    options = ["--model", str(model), "--data", str(data), "--out", str(out), "--steps", "2", "--seeds", "1"]
    options += ["--methods", "compass,unilora", "--lr-trials", "3", "--budgets", "40", "80", "--lora-at", "40"]
    printed = run(*options)
    for budget in ("40", "80"):
        rows = {row.label: row for row in summarize_comparison(out / f"data-{budget}") if row.method}
        assert len(rows) == (3 if budget == "40" else 2)
        for row in rows.values():
            assert re.search(rf"\b{row.scores['loss']['mean']:.3f}\b.*\({row.trainable_parameters:,}\)", printed)
    assert "| Compass (ours) |" in printed
    assert (out / "data.png").stat().st_size > 10_000
    again = run(*options)
    assert again.count("of them stand already and are kept") == 2
    assert (out / "data.md").read_text() in again
    assert (out / "data.md").read_text() in run(*options, "--only-report")
