"""`ketune evaluate --circuits-on`: the estimate first, then the losses."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def qaa(trained):
    return trained("qaa", "--lr", "0.05")


def test_losses_are_printed_after_the_estimate(ketune, qaa, data_folder, tmp_path):
    picture = tmp_path / "noise.png"
    answer = ketune(
        *("evaluate", "--adapter", qaa, "--data", data_folder, "--circuits-on", "aer", "--prompts", "1"),
        *("--noise", "0,0.05", "--shots", "0,50", "--max-length", "12", "--out", picture),
    )
    assert answer.code == 0, answer.err
    assert "circuits in all" in answer.err
    assert "two-wire gates" in answer.err
    lines = [line.split() for line in answer.out.splitlines()]
    assert [line[:2] for line in lines if line and line[0] in ("0", "0.05")] == [
        ["0", "exact"],
        ["0", "50"],
        ["0.05", "exact"],
        ["0.05", "50"],
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_has_all_numbers_and_nothing_else(ketune, qaa, data_folder):
    found = ketune(
        *("evaluate", "--adapter", qaa, "--data", data_folder, "--circuits-on", "statevector"),
        *("--prompts", "1", "--max-length", "12", "--json"),
    ).json
    (point,) = found["points"]
    assert point["change"] == pytest.approx(0, abs=1e-4)
    assert point["shots"] is None
    assert found["estimates"][0]["n_circuits"] == found["n_circuits"] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--noise", "0.1"], ["--noise", "--circuits-on aer"]),
        (["--circuits-on", "aer", "--noise", "x"], ["--noise 'x'", "numbers"]),
        (["--circuits-on", "aer", "--noise", "-1"], ["--noise '-1'", "below 0"]),
        (["--circuits-on", "nowhere"], ["'nowhere'", "statevector"]),
        (["--circuits-on", "aer", "--loading", "magic"], ["'magic'", "'gates'"]),
    ],
)
def test_what_cannot_be_done_is_answered_in_one_line(ketune, qaa, data_folder, options, words):
    answer = ketune("evaluate", "--adapter", qaa, "--data", data_folder, *options)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1, answer.err
    for word in words:
        assert word in answer.err


def test_a_machine_is_not_started_without_a_yes(ketune, qaa, data_folder, monkeypatch):
    from ketune.circuits._aer_device import AerDevice

    monkeypatch.setattr(AerDevice, "is_hardware", True)
    command = ("evaluate", "--adapter", qaa, "--data", data_folder, "--circuits-on", "aer", "--prompts", "1")
    refused = ketune(*command, "--max-length", "12")
    assert refused.code == 2
    assert refused.out == ""
    assert "pass --yes" in refused.err
    assert ketune(*command, "--max-length", "12", "--yes").code == 0
