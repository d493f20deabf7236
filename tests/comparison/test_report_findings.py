"""What the report says about who wins: plain when a method loses, silent where the seeds do not decide."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.comparison.result_builder import build_result, failed_result

from ketune.comparison.arms import Comparison, group, same_budget
from ketune.comparison.report_findings import findings

NOISE = (0.000, 0.021, -0.013, 0.008, 0.015)


def compare(losses: dict[tuple[str, str | None], list[float]], **changes) -> Comparison:
    """A comparison in which each arm has the given losses, one per seed."""
    results = [
        build_result(method, control, seed, loss=loss, n_steps=2, **changes)
        for (method, control), values in losses.items()
        for seed, loss in enumerate(values)
    ]
    return Comparison(Path("nowhere"), group(results, ("full", "lora", "sora", "qaa")))


def said(losses, **changes) -> str:
    return "\n".join(findings(compare(losses, **changes)))


def around(mean: float, wobble: float = 0.1) -> list[float]:
    """Losses that share the noise of the seeds, with a little of their own."""
    return [mean + noise + wobble * noise * (-1) ** i for i, noise in enumerate(NOISE)]


def test_it_says_plainly_that_qaa_loses():
    text = said({("lora", None): around(1.4), ("qaa", "trained"): around(1.5, -0.1)})
    assert "QAA loses to LoRA at equal budget (20,520 and 20,480 trainable parameters)" in text
    assert "nats per token higher" in text


def test_it_says_that_qaa_beats_lora_when_it_does():
    text = said({("lora", None): around(1.5), ("qaa", "trained"): around(1.4, -0.1)})
    assert "QAA beats LoRA at equal budget" in text
    assert "nats per token lower" in text


def test_a_difference_within_the_noise_is_undecided():
    text = said({("lora", None): [1.40, 1.45, 1.38], ("qaa", "trained"): [1.43, 1.40, 1.40]})
    assert "QAA against LoRA is undecided at equal budget" in text
    assert "beats" not in text
    assert "loses" not in text
    assert "With 3 seeds, only differences that are large beside their spread" in text


def test_one_seed_decides_nothing():
    text = said({("lora", None): [1.4], ("qaa", "trained"): [1.9]})
    assert "QAA against LoRA is undecided" in text
    assert "one seed in common; a test needs two" in text
    assert "With one seed, a difference cannot be told from chance" in text


def test_another_size_is_not_called_equal_budget():
    comparison = compare({("lora", None): around(1.4), ("qaa", "trained"): around(1.5, -0.1)}, budget=None)
    for arm in comparison.arms:
        for result in arm.results:
            if arm.method == "qaa":
                result.train_info.num_trainable_params = 60_000
    text = "\n".join(findings(comparison))
    assert "QAA loses to LoRA, though not at equal budget (60,000 and 20,480 trainable parameters)" in text
    assert not same_budget(*comparison.arms)


def test_beating_every_control_is_said_with_its_limits():
    text = said(
        {
            ("qaa", "trained"): around(1.40),
            ("qaa", "frozen"): around(1.50, -0.1),
            ("qaa", "classical"): around(1.48, -0.1),
            ("qaa", "none"): around(1.55, -0.1),
        }
    )
    assert "QAA beats every control that was run, on this model and data." in text


def test_losing_to_one_control_is_said():
    text = said({("qaa", "trained"): around(1.50), ("qaa", "classical"): around(1.40, -0.1)})
    assert "QAA loses to itself with a classical stand-in" in text
    assert "Something simpler in the place of the trained circuit of QAA does better." in text


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_a_control_that_does_as_well_takes_the_credit_away(n_seeds):
    losses = {("qaa", "trained"): [1.40, 1.45, 1.38][:n_seeds], ("qaa", "frozen"): [1.41, 1.43, 1.39][:n_seeds]}
    assert "These runs do not show that training the circuit of QAA helps." in said(losses)


def test_identical_losses_are_called_the_same():
    text = said({("qaa", "trained"): [1.4, 1.5], ("qaa", "none"): [1.4, 1.5]})
    assert "QAA and itself without the circuit have the same test loss" in text


def test_without_controls_it_says_that_nothing_is_known_of_the_circuit():
    text = said({("lora", None): around(1.4), ("qaa", "trained"): around(1.3)})
    assert "No control of QAA was run, so nothing can be said about what its circuit adds." in text


def test_methods_without_a_circuit_get_one_sentence():
    text = said({("full", None): around(1.2), ("lora", None): around(1.4, -0.1), ("sora", None): around(1.5)})
    assert "The other methods beside LoRA: Full fine-tuning better, with 1,313,280 parameters; SoRA worse." in text
    assert "Among those sized to the budget of 20,480 parameters it is LoRA" in text


def test_what_is_no_better_than_the_base_is_named():
    assert "No better than the untouched base (3.2000): SoRA." in said({("sora", None): around(3.3)})


def test_cost_is_given_beside_lora():
    text = said({("lora", None): around(1.4), ("qaa", "trained"): around(1.4, -0.1)})
    assert "QAA takes 1.20 times the time of a training step and 1.02 times the peak memory of LoRA." in text


def test_failed_cells_are_counted():
    comparison = compare({("lora", None): around(1.4)})
    failed = group([failed_result("sora", 0), failed_result("sora", 1)])
    comparison.arms.extend(failed)
    assert "2 cells failed" in "\n".join(findings(comparison))


def test_without_any_loss_nothing_is_said():
    assert findings(Comparison(Path("nowhere"), group([failed_result()]))) == []
