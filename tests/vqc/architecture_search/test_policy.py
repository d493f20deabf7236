"""The policy: a distribution over the whole space, and what follows from it, against enumeration."""

import math

import pytest
import torch

from ketune.vqc.architecture import Architecture
from ketune.vqc.architecture_search import ArchitecturePolicy, Choices, SearchError, SearchSpace


def context(n=40, n_features=16, seed=0):
    return torch.randn(n, n_features, generator=torch.Generator().manual_seed(seed))


def random_choices(space, seed):
    """Far from uniform, in float64."""
    generator = torch.Generator().manual_seed(seed)
    depth = 2 * torch.randn(len(space.depths), generator=generator, dtype=torch.float64)
    layers = 2 * torch.randn(space.max_depth, len(space.entanglers), generator=generator, dtype=torch.float64)
    return Choices(space, depth.log_softmax(-1), layers.log_softmax(-1))


def test_probabilities_of_all_architectures_sum_to_one():
    space = SearchSpace()
    for choices in (random_choices(space, 0), ArchitecturePolicy(space, 16).without_dropout(context())):
        total = choices.log_probability(space.architectures).exp().sum().detach()
        assert float(total) == pytest.approx(1, abs=1e-5)


def test_entropy_and_divergence_are_those_of_the_enumerated_space():
    space = SearchSpace()
    ours, theirs = random_choices(space, 1), random_choices(space, 2)
    p, q = (choices.log_probability(space.architectures) for choices in (ours, theirs))
    assert float(ours.entropy()) == pytest.approx(float(-(p.exp() * p).sum()), abs=1e-10)
    assert float(ours.divergence(theirs)) == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-10)
    assert float(ours.divergence(ours)) == 0
    assert ours.most_likely() == space.architectures[int(p.argmax())]


def test_layers_that_the_depth_does_not_use_do_not_count():
    space = SearchSpace()
    choices = random_choices(space, 3)
    changed = Choices(space, choices.depth, choices.layers.clone().index_fill(0, torch.tensor(3), math.log(0.25)))
    shallow, deep = [Architecture(("ring",) * 3)], [Architecture(("ring",) * 4)]
    assert torch.equal(choices.log_probability(shallow), changed.log_probability(shallow))
    assert not torch.equal(choices.log_probability(deep), changed.log_probability(deep))
    layers = choices.layers.clone().requires_grad_()
    Choices(space, choices.depth, layers).log_probability(shallow).sum().backward()
    assert layers.grad is not None
    assert layers.grad[3].abs().max() == 0
    assert layers.grad[2].abs().max() > 0


def test_samples_come_as_often_as_their_probability_says():
    space = SearchSpace(depths=(1, 2), entanglers=("ring", "linear"))
    choices = random_choices(space, 4)
    drawn = choices.sample(20000, torch.Generator().manual_seed(0))
    p = choices.log_probability(space.architectures).exp()
    for architecture, probability in zip(space.architectures, p.tolist()):
        deviation = math.sqrt(probability * (1 - probability) / 20000)
        assert drawn.count(architecture) / 20000 == pytest.approx(probability, abs=5 * deviation)


def test_equal_policies_have_no_divergence_although_one_of_them_trains():
    policy, same = (ArchitecturePolicy(SearchSpace(), 16, seed=3) for _ in range(2))
    policy.train()
    divergence = policy.without_dropout(context()).divergence(same.without_dropout(context()))
    assert policy.training
    assert abs(float(divergence.detach())) < 1e-9
    with_dropout = policy(context()).divergence(same.without_dropout(context()))
    assert float(with_dropout.detach()) > 1e-5  # what the released code measured


@pytest.mark.parametrize("activation", ["gelu", "none"])
def test_gradients_reach_every_weight(activation):
    policy = ArchitecturePolicy(SearchSpace(), 16, activation=activation)
    policy.train()
    policy(context()).log_probability([Architecture(("ring", "linear", "brick_odd", "ring"))]).sum().backward()
    for name, weight in policy.named_parameters():
        assert weight.grad is not None, name
        # A softmax over keys does not see a shift of all of them, so of the key's bias nothing but rounding is left.
        reached = weight.grad[:64] if name.endswith("in_proj_bias") else weight.grad
        assert reached.abs().max() > 1e-9, name


def test_the_form_is_the_published_one():
    policy = ArchitecturePolicy(SearchSpace(), 256)
    shapes = {name: tuple(weight.shape) for name, weight in policy.named_parameters()}
    assert shapes["embed.weight"] == (64, 256)
    assert shapes["layer_tokens"] == (4, 64)
    assert shapes["depth_head.weight"] == (3, 64)
    assert shapes["layer_head.weight"] == (4, 64)
    assert shapes["mixer.layers.1.linear1.weight"] == (128, 64)
    layers = policy.mixer.layers
    assert len(layers) == 2
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)
    assert layers[0].self_attn.num_heads == 8


def test_the_published_form_sees_the_mean_of_the_rows_only_and_ours_sees_more():
    rows = context(64)
    rows = rows - rows.mean(0)
    for activation, same in (("none", True), ("gelu", False)):
        policy = ArchitecturePolicy(SearchSpace(), 16, activation=activation)
        ours, scaled = policy.without_dropout(rows), policy.without_dropout(3 * rows)
        assert torch.allclose(ours.layers, scaled.layers, atol=1e-5) == same


def test_no_more_than_192_rows_are_looked_at():
    policy = ArchitecturePolicy(SearchSpace(), 16)
    rows = context(300)
    other = torch.cat((rows[:192], 100 * rows[192:]))
    assert torch.equal(policy.without_dropout(rows).depth, policy.without_dropout(other).depth)


def test_making_a_policy_leaves_torchs_randomness_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    ArchitecturePolicy(SearchSpace(), 4)
    assert torch.equal(torch.rand(1), expected)


def test_strangers_to_the_space_are_refused():
    space = SearchSpace()
    with pytest.raises(SearchError, match="not in the space"):
        random_choices(space, 0).log_probability([Architecture(("ring",))])
    with pytest.raises(SearchError, match="choices over"):
        random_choices(space, 0).divergence(random_choices(SearchSpace(depths=(2,)), 0))
    with pytest.raises(SearchError, match="activation='relu'"):
        ArchitecturePolicy(space, 4, activation="relu")
