"""Scoring a circuit: measures as scikit-learn has them, weights and losses by hand, training that learns."""

import math

import pytest
import torch

from ketune.circuits import Circuit, Gate, run, rxryrz_ring
from ketune.vqc.architecture import Architecture
from ketune.vqc.architecture_search import (
    CircuitClassifier,
    CircuitScorer,
    ClassifierTraining,
    SearchError,
    evaluate,
    quality,
    train_classifier,
    train_final,
)
from ketune.vqc.architecture_search.scoring import class_weights, reward
from ketune.vqc.problems import Rows

from .tasks import task

LINEAR = Architecture(("linear", "linear"))


def test_measures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    for n_classes in (2, 3):
        y, predicted = (torch.randint(n_classes, (200,), generator=generator) for _ in range(2))
        predicted = torch.where(torch.rand(200, generator=generator) < 0.6, y, predicted)
        found = quality(predicted, y)
        assert found.accuracy == pytest.approx(metrics.accuracy_score(y, predicted))
        assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(y, predicted))
        assert found.f1 == pytest.approx(metrics.f1_score(y, predicted, average="macro"))


def test_a_class_without_rows_does_not_count_unless_it_is_answered():
    y = torch.zeros(4, dtype=torch.int64)
    assert quality(y, y).balanced_accuracy == quality(y, y).f1 == 1
    assert quality(torch.tensor([0, 0, 0, 1]), y).f1 == pytest.approx((6 / 7 + 0) / 2)


def test_the_reward_is_the_published_sum():
    found = quality(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]))
    assert found.balanced_accuracy == pytest.approx(0.75)
    assert reward(found, 16) == pytest.approx(0.7 * 0.75 + 0.3 * (2 / 3 + 4 / 5) / 2 - 0.01 * 0.5)


def test_class_weights_balance_the_classes_up_to_the_cap():
    y = torch.tensor([0] * 90 + [1] * 10)
    assert class_weights(y, 2, 100.0).tolist() == pytest.approx([100 / 180, 5.0])
    assert class_weights(y, 2, 4.0).tolist() == pytest.approx([100 / 180, 4.0])


def test_logits_are_expectations_of_z_on_the_first_wires():
    circuit = rxryrz_ring(4, 2)
    classifier = CircuitClassifier(circuit, 3, temperature=True)
    x = torch.randn(5, 16)
    expected = run(circuit, x, classifier.angles)[:, :3]
    assert torch.allclose(classifier(x), expected, atol=1e-6)
    with torch.no_grad():
        assert classifier.log_temperature is not None
        classifier.log_temperature.fill_(math.log(2.5))
    assert torch.allclose(classifier(x), 2.5 * expected, atol=1e-5)


def test_only_a_temperature_lets_the_loss_fall_below_its_bound():
    # A wire that tells the classes apart perfectly, and a second one that mirrors it.
    circuit = Circuit(2, (Gate("RZ", (0,), 0), Gate("RZ", (1,), 1)))
    y = torch.arange(64) % 2
    x = torch.zeros(64, 4)
    x[y == 0, 1] = 1  # |01>: logits 1, -1
    x[y == 1, 2] = 1
    bound = math.log(1 + math.exp(-2))
    for temperature, below in ((False, False), (True, True)):
        training = ClassifierTraining(epochs=30, learning_rate=0.05, temperature=temperature)
        _, loss = train_classifier(circuit, Rows(x, y), 2, training)
        assert (loss < bound - 1e-3) == below
        assert loss > 0.12 or below


def test_training_learns_the_task():
    data = task()
    training = ClassifierTraining(epochs=25, learning_rate=0.03, batch_size=16)
    classifier, loss = train_classifier(LINEAR.circuit(4), data.train, 2, training)
    assert evaluate(classifier, data.test).balanced_accuracy > 0.9
    _, first = train_classifier(LINEAR.circuit(4), data.train, 2, ClassifierTraining(epochs=1))
    assert loss < first - 0.1


def test_angles_start_near_zero_and_follow_the_seed():
    angles = [
        CircuitClassifier(rxryrz_ring(4, 40), 2, generator=torch.Generator().manual_seed(s)).angles for s in (0, 0, 1)
    ]
    assert torch.equal(angles[0], angles[1])
    assert not torch.equal(angles[0], angles[2])
    assert float(angles[0].detach().std()) == pytest.approx(0.05, rel=0.15)


def test_the_same_circuit_is_trained_once_and_scores_the_same():
    data, training = task(), ClassifierTraining(epochs=1)
    seen = []
    scorer = CircuitScorer(data, 4, training, seed=5, on_score=lambda a, score: seen.append((a, score)))
    first, again = scorer(LINEAR), scorer(LINEAR)
    assert first is again
    assert (scorer.n_trained, seen) == (1, [(LINEAR, first)])
    assert CircuitScorer(data, 4, training, seed=5)(LINEAR) == first
    known = CircuitScorer(data, 4, training, seed=5, known=scorer.scores)
    assert known(LINEAR) == first
    assert known.n_trained == 0
    assert first.n_two_wire_gates == 6
    assert first.reward == pytest.approx(0.7 * first.balanced_accuracy + 0.3 * first.f1 - 0.06 / 32)


def test_scores_of_one_task_are_not_taken_for_another():
    training = ClassifierTraining(epochs=1)
    scores = [CircuitScorer(task(seed=k, n=40), 4, training)(LINEAR) for k in range(2)]
    assert scores[0] != scores[1]


def test_the_final_model_trains_on_validation_rows_too_and_is_tested_on_the_rest():
    data = task()
    training = ClassifierTraining(epochs=2, batch_size=16)
    final, classifier = train_final(data, LINEAR.circuit(4), training, seed=1)
    both = Rows(torch.cat((data.train.x, data.validation.x)), torch.cat((data.train.y, data.validation.y)))
    by_hand, loss = train_classifier(LINEAR.circuit(4), both, 2, training, seed=1)
    assert torch.equal(by_hand.angles, classifier.angles)
    assert (final.loss, final.n_angles) == (loss, 24)
    assert final.test == evaluate(by_hand, data.test)


def test_what_does_not_fit_is_refused():
    data = task()
    with pytest.raises(SearchError, match="holds up to 8 amplitudes"):
        train_classifier(LINEAR.circuit(3), data.train, 2)
    with pytest.raises(SearchError, match="0 rows"):
        train_classifier(LINEAR.circuit(4), Rows(data.train.x[:0], data.train.y[:0]), 2)
    with pytest.raises(SearchError, match="5 classes"):
        CircuitClassifier(LINEAR.circuit(4), 5)
    with pytest.raises(SearchError, match="no rows to score"):
        quality(data.train.y[:0], data.train.y[:0])
    for wrong in ({"epochs": 0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}, {"clip": math.nan}):
        with pytest.raises(SearchError, match=next(iter(wrong))):
            ClassifierTraining(**wrong)
