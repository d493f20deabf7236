"""The benchmark of the architecture search: it runs, resumes, and its report is that of what stands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "vqc_search.py"
pytestmark = pytest.mark.slow


def run(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_the_search_runs_resumes_and_ends_in_tables(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    options = ["--sets", "ecg", "--seeds", "2", "--rows", "400", "--train-rows", "64", "--epochs", "1"]
    options += ["--final-epochs", "1", "--evaluations", "6", "--replicas", "2", "--out", str(tmp_path)]
    printed = run(*options)
    scores = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("scores/**/*.json")}
    for task in ("ecg-0", "ecg-1"):
        assert len(list((tmp_path / "ecg-lr0.03-seed0" / "scores" / task).glob("*.json"))) == 336
    found = json.loads((tmp_path / "ecg-lr0.03-seed0" / "replicas.json").read_text())
    assert all(max(curves[0]) <= found["ceiling"][0] + 1e-6 for curves in found["random"]["curves"])
    report = (tmp_path / "search-lr0.03.md").read_text()
    assert report in printed
    assert "| reinforce-alone |" in report
    assert (tmp_path / "search-lr0.03.png").stat().st_size > 10_000
    assert report in run(*options)
    assert report in run(*options, "--only-report")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("scores/**/*.json")} == scores
