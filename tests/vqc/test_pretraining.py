"""Pre-training: that what is frozen is frozen, and that what is called pre-trained has been trained."""

import pytest
import torch
from tests.vqc.labelled import blobs
from torch import nn

from ketune.circuits import rxryrz_ring
from ketune.errors import TrainingError
from ketune.vqc.classifier import CircuitClassifier
from ketune.vqc.pretraining import FrozenEncoder, pretrain_then_freeze
from ketune.vqc.reducers import PCAReducer, TTReducer
from ketune.vqc.training import train_classifier


def hybrid(encoder=None):
    encoder = encoder or TTReducer(16, 4, (4, 4), generator=torch.Generator().manual_seed(0))
    return CircuitClassifier(encoder, rxryrz_ring(4, 2), 3)


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_a_frozen_network_keeps_weights_and_statistics_through_training():
    """Of the released code, neither holds: stem convolution and BatchNorm statistics train behind the word frozen."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))
    encoder = FrozenEncoder(network, nn.Linear(6, 4))
    before = state_of(encoder.network)
    model = CircuitClassifier(encoder, rxryrz_ring(4, 2), 2)
    train_classifier(model, blobs(), epochs=2, lr=0.05)
    model.train()
    loss = model(blobs().train.x).square().sum()
    loss.backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in state_of(encoder.network).items())
    assert all(parameter.grad is None for parameter in encoder.network.parameters())
    assert not any(module.training for module in encoder.network.modules())
    assert encoder.after.training
    assert encoder.after.weight.grad.abs().max() > 0
    x = torch.randn(4, 16)
    assert torch.equal(encoder(x), encoder(x))  # no dropout
    assert model.count_parameters().encoder == 6 * 4 + 4


def test_freezing_leaves_the_given_network_alone():
    network = nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4))
    network.train()
    FrozenEncoder(network)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.training


@pytest.mark.parametrize("block", ["circuit", "linear"])
def test_the_frozen_encoder_is_what_the_source_left_and_not_the_random_one(block):
    source, target = blobs(3, seed=1), blobs(2, seed=2)
    model = CircuitClassifier(
        TTReducer(16, 4, (4, 4), generator=torch.Generator().manual_seed(0)), rxryrz_ring(4, 2), 3, block=block
    )
    random = state_of(model.encoder)
    fresh, history = pretrain_then_freeze(model, source, 2, epochs=12, lr=0.05)
    assert history.last_test > 0.7  # chance is a third
    trained = state_of(model.encoder)
    kept = state_of(fresh.encoder.network)
    for name, tensor in kept.items():
        assert torch.equal(tensor, trained[name])
    assert max(float((kept[name] - random[name]).abs().max()) for name in kept) > 0.1
    assert fresh.n_classes == 2
    assert fresh.count_parameters().encoder == 0
    if block == "circuit":
        assert not torch.equal(fresh.block.angles, model.block.angles)
    before = state_of(fresh.encoder)
    later = train_classifier(fresh, target, epochs=10, lr=0.05)
    assert all(torch.equal(before[name], tensor) for name, tensor in state_of(fresh.encoder).items())
    assert later.train_loss[-1] < later.train_loss[0]


def test_an_unfrozen_encoder_moves_at_a_tenth_of_the_rate():
    model, _ = pretrain_then_freeze(hybrid(), blobs(3, seed=1), 2, mode="unfreeze", epochs=2)
    assert model.rates == {"encoder.": 0.1}
    before = model.encoder.train_layer.cores[0].detach().clone()
    angles = model.block.angles.detach().clone()
    train_classifier(model, blobs(), epochs=1, batch_size=60, lr=0.01)  # one step of Adam moves by the rate
    assert (model.encoder.train_layer.cores[0] - before).abs().max().item() == pytest.approx(1e-3, rel=1e-2)
    assert (model.block.angles - angles).abs().max().item() == pytest.approx(1e-2, rel=1e-2)


def test_an_encoder_that_nothing_trains_is_no_pre_trained_one():
    """The published bug: weights called pre-trained that were random."""
    random = FrozenEncoder(nn.Linear(16, 4))
    with pytest.raises(TrainingError, match=r"left the encoder \(FrozenEncoder\) as it was"):
        pretrain_then_freeze(hybrid(random), blobs(3, seed=1), epochs=1)
    with pytest.raises(TrainingError, match="PCAReducer"):
        pretrain_then_freeze(hybrid(PCAReducer(blobs(3).train.x, 4)), blobs(3, seed=1), epochs=1)


def test_unknown_modes_are_refused():
    with pytest.raises(ValueError, match=r"mode='thaw'.*'freeze', 'unfreeze'"):
        pretrain_then_freeze(hybrid(), blobs(3), mode="thaw", epochs=1)
