"""Training classifiers: that it learns, repeats, and leaves alone what it should."""

import pytest
import torch
from tests.vqc.labelled import blobs
from torch import nn

from ketune.circuits import Channel, NoiseModel, rxryrz_ring
from ketune.vqc.classifier import CircuitClassifier
from ketune.vqc.pretraining import FrozenEncoder
from ketune.vqc.reducers import TTReducer
from ketune.vqc.training import accuracy, train_classifier


def hybrid(block="circuit", n_classes=2, encoder=None, seed=0):
    if encoder is None:
        encoder = TTReducer(16, 4, (4, 4), generator=torch.Generator().manual_seed(seed))
    return CircuitClassifier(encoder, rxryrz_ring(4, 2), n_classes, block=block, seed=seed)


@pytest.mark.parametrize(("block", "reached"), [("circuit", 0.9), ("linear", 0.9), ("frozen", 0.6), ("none", 0.9)])
def test_every_block_learns_to_tell_clouds_apart(block, reached):
    data = blobs()
    model = hybrid(block)
    history = train_classifier(model, data, epochs=12, lr=0.05)
    assert history.train_loss[-1] < 0.5 * history.train_loss[0]
    assert history.last_test == history.test[-1] > reached
    assert history.last_test == accuracy(model, data.test)
    assert len(history.train_loss) == len(history.validation) == len(history.test) == 12


def test_equal_seeds_repeat_to_the_bit_and_others_do_not():
    noise = NoiseModel(one_wire=(Channel("depolarising", 0.05),))
    runs = []
    for seed, world in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(world)
        model = hybrid(
            encoder=nn.Sequential(nn.Dropout(0.2), TTReducer(16, 4, (4, 4), generator=torch.Generator().manual_seed(0)))
        )
        history = train_classifier(model, blobs(), epochs=2, batch_size=16, seed=seed, noise=noise, n_trajectories=2)
        runs.append((history.train_loss, history.test, model.block.angles.detach().clone()))
    assert runs[0][:2] == runs[1][:2]
    assert torch.equal(runs[0][2], runs[1][2])
    assert not torch.equal(runs[0][2], runs[2][2])


def test_the_global_source_of_randomness_is_as_it_was():
    model, data = hybrid(), blobs()
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    train_classifier(model, data, epochs=1)
    assert torch.equal(torch.rand(3), wanted)


def test_test_and_validation_rows_never_change_what_is_learned():
    data, other = blobs(), blobs()
    other.test.x.mul_(-1)
    other.validation.x.add_(3)
    models = [hybrid(), hybrid()]
    for model, rows in zip(models, (data, other)):
        train_classifier(model, rows, epochs=2)
    assert torch.equal(models[0].block.angles, models[1].block.angles)


def test_rates_slow_down_what_they_name():
    slow, fast = hybrid(), hybrid()
    start = slow.encoder.train_layer.cores[0].detach().clone()
    train_classifier(fast, blobs(), epochs=1, batch_size=60, lr=0.01)
    train_classifier(slow, blobs(), epochs=1, batch_size=60, lr=0.01, rates={"encoder.": 0.1})
    moved = [(model.encoder.train_layer.cores[0] - start).abs().max() for model in (slow, fast)]
    assert torch.isclose(moved[0], 0.1 * moved[1], rtol=1e-3)
    assert torch.equal(slow.block.angles, fast.block.angles)


def test_a_cosine_ends_at_rest():
    model, model_at_rest = hybrid(), hybrid()
    train_classifier(model, blobs(), epochs=40, batch_size=60, schedule="cosine")
    train_classifier(model_at_rest, blobs(), epochs=41, batch_size=60, schedule="cosine")
    assert (model.block.angles - model_at_rest.block.angles).abs().max() < 0.05
    with pytest.raises(ValueError, match=r"schedule='step'.*'constant', 'cosine'"):
        train_classifier(model, blobs(), epochs=1, schedule="step")


def test_rows_behind_a_frozen_network_are_encoded_once_with_the_same_result():
    class Counted(nn.Module):
        calls = 0

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 6)

        def forward(self, x):
            Counted.calls += 1
            return self.layer(x).tanh()

    torch.manual_seed(0)
    network, after = Counted(), nn.Linear(6, 4)
    model = hybrid(encoder=FrozenEncoder(network, after))
    history = train_classifier(model, blobs(), epochs=5)
    assert Counted.calls == 3  # train, validation, test
    assert history.last_test == accuracy(model, blobs().test)
    assert not torch.equal(model.encoder.after.weight, model.encoder.after.weight * 0)
    assert after.weight.grad is not None  # what is behind the network trains


def test_heavy_noise_leaves_nothing_to_read():
    model = hybrid()
    train_classifier(model, blobs(), epochs=12, lr=0.05)
    noise = NoiseModel(one_wire=(Channel("depolarising", 0.75),), two_wire=(Channel("depolarising", 0.75),))
    assert accuracy(model, blobs().test) > 0.9
    assert accuracy(model, blobs().test, noise=noise, n_trajectories=8, seed=0) < 0.75


def test_any_module_that_gives_logits_is_trained():
    history = train_classifier(nn.Linear(16, 2), blobs(), epochs=10, lr=0.05, measure_every=4)
    assert history.last_test > 0.9
    assert history.test[0] == history.test[2]  # measured after epochs 1, 4, 8, 10


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="requires_grad"):
        train_classifier(nn.Linear(16, 2).requires_grad_(False), blobs(), epochs=1)
    with pytest.raises(ValueError, match="epochs=0"):
        train_classifier(nn.Linear(16, 2), blobs(), epochs=0)
