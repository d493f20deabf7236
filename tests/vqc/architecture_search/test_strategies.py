"""Random, exhaustive and policy search at equal budget; a policy that learns, and what holds it over tasks."""

import pytest
import torch

from ketune.vqc.architecture_search import (
    ArchitecturePolicy,
    Reinforce,
    ReinforceSettings,
    Score,
    SearchError,
    SearchResult,
    SearchSpace,
    exhaustive_search,
    named_subset,
    random_search,
    reinforce_search,
)
from ketune.vqc.architecture_search.reinforce import policy_fisher
from ketune.vqc.architecture_search.strategies import RandomSearch, derived_seed

SPACE = SearchSpace()


def context(seed=0, n=20, n_features=16):
    return torch.randn(n, n_features, generator=torch.Generator().manual_seed(seed))


def planted(name="ring"):
    """A reward for one entangler: the share of layers that have it."""
    return lambda architecture: Score(architecture.entanglers.count(name) / architecture.depth)


def expected_reward(choices, objective):
    p = choices.log_probability(SPACE.architectures).exp().detach()
    return float(p @ torch.tensor([objective(a).reward for a in SPACE.architectures]))


def test_every_strategy_asks_as_often_as_it_may():
    asked = []

    def objective(architecture):
        asked.append(architecture)
        return Score(0.5)

    results = [
        random_search(SPACE, objective, 30),
        random_search(SPACE, objective, 30, by_depth=True),
        reinforce_search(SPACE, objective, 30, context=context()),
        reinforce_search(SPACE, objective, 31, context=context()),
    ]
    assert [len(result.evaluations) for result in results] == [30, 30, 30, 31]
    assert len(asked) == 121
    assert [result.n_distinct for result in results[:2]] == [30, 30]
    assert results[3].evaluations[:30] == results[2].evaluations


def test_exhaustive_search_finds_the_best_and_nothing_beats_it():
    reward = {
        a: float(torch.rand((), generator=torch.Generator().manual_seed(k))) for k, a in enumerate(SPACE.architectures)
    }

    def objective(architecture):
        return Score(reward[architecture])

    every = exhaustive_search(SPACE, objective)
    assert len(every.evaluations) == 336
    assert every.best.score.reward == max(reward.values())
    one = random_search(SPACE, objective, 30, seed=3)
    assert one.best.score.reward <= every.best.score.reward
    assert one.best_rewards == tuple(max(e.score.reward for e in one.evaluations[: k + 1]) for k in range(30))
    assert random_search(SPACE, objective, 1000).n_distinct == 336


def test_seeds_decide_and_different_seeds_choose_differently():
    for search in (random_search, lambda *a, **k: reinforce_search(*a, context=context(), **k)):
        first, again, other = (search(SPACE, planted(), 9, seed=seed) for seed in (0, 0, 1))
        assert first == again
        assert first.evaluations != other.evaluations
    assert derived_seed(1, "a") != derived_seed(1, "b")


def test_neither_dropout_nor_sampling_touches_torchs_randomness():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    reinforce_search(SPACE, planted(), 6, context=context())
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", ["ring", "brick_odd"])
def test_the_policy_learns_a_planted_reward_far_better_than_chance(name):
    strategy = Reinforce(ReinforceSettings(n_candidates=8, learning_rate=3e-3), policy_seed=1)
    result = strategy.search(SPACE, planted(name), 480, context=context())
    learned = expected_reward(strategy.choices(context()), planted(name))
    untrained = expected_reward(ArchitecturePolicy(SPACE, 16, seed=1).without_dropout(context()), planted(name))
    assert untrained == pytest.approx(0.25, abs=0.15)
    assert learned > 0.85
    late = [evaluation.score.reward for evaluation in result.evaluations[-80:]]
    assert sum(late) / 80 > 0.8
    assert (
        strategy.choices(context()).most_likely().entanglers
        == (name,) * strategy.choices(context()).most_likely().depth
    )


def test_repeats_cost_nothing_where_they_are_not_counted():
    counted, free = (
        reinforce_search(SPACE, planted(), 30, context=context(), settings=ReinforceSettings(count_repeats=count))
        for count in (True, False)
    )
    assert len(counted.evaluations) == 30
    assert counted.n_distinct < len(free.evaluations) == free.n_distinct <= 30
    assert free.evaluations[:3] == counted.evaluations[:3]
    four = reinforce_search(
        SearchSpace(depths=(1,)), planted(), 9, context=context(), settings=ReinforceSettings(count_repeats=False)
    )
    assert four.n_distinct == len(four.evaluations) == 4  # all there are, and an end


def test_an_objective_that_does_not_depend_on_the_circuit_teaches_nothing():
    settings = ReinforceSettings(entropy_bonus=0.0)
    strategy = Reinforce(settings, policy_seed=1)
    strategy.search(SPACE, lambda architecture: Score(0.7), 60, context=context())
    untrained = ArchitecturePolicy(SPACE, 16, seed=1).state_dict()
    assert strategy.policy is not None
    for name, weight in strategy.policy.state_dict().items():
        assert torch.equal(weight, untrained[name]), name


def test_the_first_step_is_the_policy_gradient_of_the_very_circuits_that_were_scored():
    """By hand: the advantage against the batch's mean, times the log-probability under the sampling distribution."""
    settings = ReinforceSettings(entropy_bonus=0.0, clip=1e9)
    strategy = Reinforce(settings, policy_seed=2)
    result = strategy.search(SPACE, planted(), 3, context=context(), seed=5)
    policy = ArchitecturePolicy(SPACE, 16, seed=2)
    policy.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(5, "dropout", 0))
        choices = policy(context())
    rewards = torch.tensor([e.score.reward for e in result.evaluations])
    log_p = choices.log_probability([e.architecture for e in result.evaluations])
    gradients = torch.autograd.grad(-((rewards - rewards.mean()) * log_p).mean(), list(policy.parameters()))
    assert rewards.unique().numel() > 1
    for weight, gradient in zip(policy.parameters(), gradients):
        weight.grad = gradient
    torch.optim.Adam(policy.parameters(), 1e-3).step()
    assert strategy.policy is not None
    for (name, ours), theirs in zip(policy.named_parameters(), strategy.policy.parameters()):
        assert torch.equal(ours, theirs), name


def test_the_sampled_fisher_information_approaches_the_exact_one():
    space = SearchSpace(depths=(1, 2), entanglers=("ring", "linear"))
    policy = ArchitecturePolicy(space, 16, seed=0)
    choices = policy.without_dropout(context())
    weights = named_subset(policy, ["depth_head.*", "layer_head.*"])
    exact = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for log_p in choices.log_probability(space.architectures):
        for (name, _), gradient in zip(
            weights.items(), torch.autograd.grad(log_p, list(weights.values()), retain_graph=True)
        ):
            exact[name] += float(log_p.detach().exp()) * gradient.square()
    policy.train()  # dropout must be off whatever the mode
    sampled = policy_fisher(policy, context(), 400, seed=0)
    for name, expected in exact.items():
        assert torch.allclose(sampled[name], expected, rtol=0.3, atol=0.05 * float(expected.max())), name


def after_two_tasks(elastic, divergence):
    """A policy that learned one entangler on a task and another one on the next, and the penalty of the first task."""
    settings = ReinforceSettings(
        n_candidates=8, learning_rate=3e-3, elastic=elastic, divergence=divergence, entropy_bonus=0.2
    )
    strategy = Reinforce(settings, policy_seed=1)
    strategy.search(SPACE, planted("ring"), 120, context=context(0))
    strategy.end_task(context(0))
    strategy.search(SPACE, planted("linear"), 120, context=context(1), seed=1)
    assert strategy.policy is not None
    assert strategy.penalty is not None
    return strategy, float(strategy.penalty(named_subset(strategy.policy)).detach())


def test_elastic_weights_keep_the_policy_where_the_task_before_needs_it():
    _, free = after_two_tasks(0.0, 0.0)
    _, held = after_two_tasks(50.0, 0.0)
    assert held < free / 4


def test_divergence_keeps_what_the_policy_chose_on_the_task_before():
    kept = {
        eta: expected_reward(after_two_tasks(0.0, eta)[0].choices(context(0)), planted("ring")) for eta in (0.0, 10.0)
    }
    assert kept[0.0] < 0.3
    assert kept[10.0] > kept[0.0] + 0.2


def test_a_carried_policy_knows_the_task_before_and_a_lone_one_does_not():
    for continual, knows in ((True, True), (False, False)):
        strategy = Reinforce(ReinforceSettings(n_candidates=8, learning_rate=3e-3), continual=continual, policy_seed=1)
        strategy.search(SPACE, planted(), 320, context=context())
        strategy.end_task(context())
        result = strategy.search(SPACE, planted(), 16, context=context(1), seed=1)
        mean = sum(e.score.reward for e in result.evaluations) / 16
        assert (mean > 0.6) == knows
        assert (strategy.reference is not None) == continual


def test_a_strategy_comes_back_from_its_tensors():
    strategy = Reinforce(policy_seed=1)
    strategy.search(SPACE, planted(), 6, context=context())
    strategy.end_task(context())
    again = Reinforce(policy_seed=99)
    again.restore(strategy.tensors(), SPACE)
    for one in (strategy, again):
        one.search(SPACE, planted(), 6, context=context(1), seed=2)
        one.end_task(context(1), 2)
    ours, theirs = strategy.tensors(), again.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    with pytest.raises(SearchError, match="no policy for this space"):
        again.restore(ours, SearchSpace(depths=(2,)))
    assert RandomSearch().tensors() == {}


def test_a_result_comes_back_from_its_dictionary():
    result = random_search(SPACE, planted(), 5)
    assert SearchResult.from_dict(result.to_dict()) == result
    with pytest.raises(SearchError, match="no result"):
        SearchResult.from_dict({"strategy": "random"})


def test_impossible_searches_are_refused():
    with pytest.raises(SearchError, match="0 different architectures"):
        random_search(SPACE, planted(), 0)
    with pytest.raises(SearchError, match="rows for the policy"):
        Reinforce().search(SPACE, planted(), 3)
    strategy = Reinforce()
    with pytest.raises(SearchError, match="not seen a task"):
        strategy.choices(context())
    strategy.search(SPACE, planted(), 3, context=context())
    with pytest.raises(SearchError, match="learned on 16"):
        strategy.search(SPACE, planted(), 3, context=context(n_features=8))
    for wrong in ({"n_candidates": 0}, {"learning_rate": -1.0}, {"clip": 0.0}, {"baseline_decay": 1.0}):
        with pytest.raises(SearchError, match=next(iter(wrong))):
            ReinforceSettings(**wrong)
