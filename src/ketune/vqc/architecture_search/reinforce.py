"""CL-QAS: a policy that learns which circuits do well on a task, and remembers it over tasks.

arXiv 2601.06392, in the revised form of the authors' code. REINFORCE with a baseline chooses the circuits; Fisher-EWC
on the policy's weights and the divergence from the policy of the task before keep what it has learned.

Two faults of the released code are not copied. Its first version multiplied the reward by the log-probability of
circuits that had not been scored, so that the reward taught nothing; here the gradient is that of the very circuits
that were asked for, under the very distribution they were drawn from. And it compared the policy with dropout to the
reference without; here both sides of the divergence, and the Fisher information, are without.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ketune.vqc.architecture_search.elastic import ElasticPenalty, diagonal_fisher, named_subset
from ketune.vqc.architecture_search.policy import ArchitecturePolicy, Choices
from ketune.vqc.architecture_search.scoring import Objective
from ketune.vqc.architecture_search.space import SearchError, SearchSpace
from ketune.vqc.architecture_search.strategies import (
    Evaluation,
    OnEvaluation,
    SearchResult,
    Strategy,
    derived_seed,
)

_MOST_DRAWS = 20


@dataclass(frozen=True)
class ReinforceSettings:
    """How the policy learns.

    Args:
        n_candidates: circuits per step; 30 evaluations make 10 steps of 3.
        learning_rate: of Adam, anew for each task.
        baseline_decay: the baseline starts at the mean reward of the first step and then is a moving average.
        entropy_bonus: weight of the entropy in nats.
        clip: largest norm of a gradient.
        elastic: weight mu of Fisher-EWC; 0 leaves it out.
        divergence: weight eta of KL(policy || policy of the task before); 0 leaves it out.
        n_fisher: sampled circuits that the Fisher information is measured with.
        activation: of the policy, see `ArchitecturePolicy`.
        count_repeats: whether a circuit that comes again uses up an evaluation, as published, although its score
            stands. A policy soon draws the same circuits again and again; without counting them it goes on until as
            many different ones were scored, or until it has drawn 20 times as many candidates.

    Raises:
        SearchError: for a number that is out of range.
    """

    n_candidates: int = 3
    learning_rate: float = 1e-3
    baseline_decay: float = 0.9
    entropy_bonus: float = 0.002
    clip: float = 1.0
    elastic: float = 0.5
    divergence: float = 0.01
    n_fisher: int = 24
    activation: str = "gelu"
    count_repeats: bool = True

    def __post_init__(self) -> None:
        for name in ("n_candidates", "n_fisher"):
            if getattr(self, name) < 1:
                raise SearchError(f"ReinforceSettings({name}={getattr(self, name)}): must be at least 1")
        for name in ("learning_rate", "entropy_bonus", "elastic", "divergence"):
            if not getattr(self, name) >= 0:
                raise SearchError(f"ReinforceSettings({name}={getattr(self, name)}): must be at least 0")
        if not self.clip > 0 or not 0 <= self.baseline_decay < 1:
            raise SearchError(
                f"ReinforceSettings(clip={self.clip}, baseline_decay={self.baseline_decay}): clip above 0, and decay "
                f"from 0 to below 1"
            )


class Reinforce(Strategy):
    """REINFORCE with a policy that is carried from task to task.

    Args:
        settings: how it learns.
        continual: keep the policy, and hold it by EWC and divergence; else every task starts with a new policy.
        policy_seed: of the first weights.

    Attributes:
        policy: the policy, None before the first search.
        reference: the frozen policy of the task before; None before a task has ended.
        penalty: the penalty of all tasks that have ended, as one.

    Example:
        >>> import torch
        >>> from ketune.vqc.architecture_search import Score, SearchSpace
        >>> strategy = Reinforce()
        >>> objective = lambda architecture: Score(architecture.entanglers.count("ring") / architecture.depth)
        >>> result = strategy.search(SearchSpace(), objective, 6, context=torch.randn(10, 16))
        >>> len(result.evaluations), strategy.policy(torch.randn(10, 16)).depth.shape
        (6, torch.Size([3]))
    """

    def __init__(
        self, settings: ReinforceSettings | None = None, *, continual: bool = True, policy_seed: int = 0
    ) -> None:
        self.settings = settings or ReinforceSettings()
        self.continual, self.policy_seed = continual, policy_seed
        self.name = "reinforce" if continual else "reinforce-alone"
        self.policy: ArchitecturePolicy | None = None
        self.reference: ArchitecturePolicy | None = None
        self.penalty: ElasticPenalty | None = None

    def search(
        self,
        space: SearchSpace,
        objective: Objective,
        n_evaluations: int,
        *,
        context: Tensor | None = None,
        seed: int = 0,
        on_evaluation: OnEvaluation | None = None,
    ) -> SearchResult:
        """Policy steps until the evaluations are used up; the last step may have fewer candidates.

        Raises:
            SearchError: without rows, for fewer than one evaluation, or when the policy was made for another space.
        """
        if context is None or n_evaluations < 1:
            raise SearchError(f"{n_evaluations} evaluations, context={context}: at least 1, and rows for the policy")
        policy = self._policy_for(space, context)
        settings = self.settings
        steps = torch.optim.Adam(policy.parameters(), settings.learning_rate)
        generator = torch.Generator().manual_seed(derived_seed(seed, "circuits"))
        found: list[Evaluation] = []
        baseline: float | None = None
        n_drawn = 0
        while len(found) < n_evaluations and n_drawn < _MOST_DRAWS * n_evaluations:
            with torch.random.fork_rng(devices=[]):  # dropout takes torch's global randomness
                torch.manual_seed(derived_seed(seed, "dropout", n_drawn))
                policy.train()
                choices = policy(context)
            wanted = choices.sample(min(settings.n_candidates, n_evaluations - len(found)), generator)
            n_drawn += len(wanted)
            scores = []
            for architecture in wanted:
                scores.append(objective(architecture))
                if settings.count_repeats or all(architecture != one.architecture for one in found):
                    found.append(Evaluation(architecture, scores[-1]))
                    if on_evaluation is not None:
                        on_evaluation(len(found), found[-1])
            rewards = torch.tensor([score.reward for score in scores])
            mean = float(rewards.mean())
            baseline = mean if baseline is None else baseline
            loss = -((rewards - baseline) * choices.log_probability(wanted)).mean()
            loss = loss - settings.entropy_bonus * choices.entropy() + self._holding(policy, context)
            steps.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), settings.clip)
            steps.step()
            baseline = settings.baseline_decay * baseline + (1 - settings.baseline_decay) * mean
        return SearchResult(self.name, tuple(found))

    def _policy_for(self, space: SearchSpace, context: Tensor) -> ArchitecturePolicy:
        if self.policy is None or not self.continual:
            self.policy = ArchitecturePolicy(
                space, context.shape[-1], activation=self.settings.activation, seed=self.policy_seed
            )
        if self.policy.space != space or self.policy.n_features != context.shape[-1]:
            raise SearchError(
                f"rows of {context.shape[-1]} features and the space {space.to_dict()}: this policy learned on "
                f"{self.policy.n_features} and {self.policy.space.to_dict()}; take a new Reinforce()"
            )
        return self.policy

    def _holding(self, policy: ArchitecturePolicy, context: Tensor) -> Tensor:
        """mu EWC + eta KL(policy || reference), both without dropout."""
        held = torch.zeros(())
        if self.penalty is not None and self.settings.elastic:
            held = held + self.settings.elastic * self.penalty(named_subset(policy))
        if self.reference is not None and self.settings.divergence:
            with torch.no_grad():
                before = self.reference.without_dropout(context)
            held = held + self.settings.divergence * policy.without_dropout(context).divergence(before)
        return held

    def end_task(self, context: Tensor, seed: int = 0) -> None:
        """Freezes a copy of the policy and adds the task to the penalty."""
        if self.policy is None or not self.continual:
            return
        fisher = policy_fisher(self.policy, context, self.settings.n_fisher, derived_seed(seed, "fisher"))
        new = ElasticPenalty(fisher, named_subset(self.policy))
        self.penalty = new if self.penalty is None else self.penalty.with_task(new)
        self.reference = deepcopy(self.policy).requires_grad_(False)

    def tensors(self) -> dict[str, Tensor]:
        """Policy, reference and penalty by name."""
        found: dict[str, Tensor] = {}
        for prefix, module in (("policy", self.policy), ("reference", self.reference)):
            found |= {} if module is None else {f"{prefix}/{name}": t for name, t in module.state_dict().items()}
        if self.penalty is not None:
            found |= {f"fisher/{name}": tensor for name, tensor in self.penalty.fisher.items()}
            found |= {f"anchor/{name}": tensor for name, tensor in self.penalty.anchor.items()}
        return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}

    def restore(self, tensors: Mapping[str, Tensor], space: SearchSpace) -> None:
        """Takes up what `tensors` gave.

        Raises:
            SearchError: when the tensors are those of another space or form.
        """
        parts: dict[str, dict[str, Tensor]] = {"policy": {}, "reference": {}, "fisher": {}, "anchor": {}}
        for name, tensor in tensors.items():
            prefix, _, rest = name.partition("/")
            parts.setdefault(prefix, {})[rest] = tensor
        try:
            self.policy = self._module(parts["policy"], space)
            self.reference = self._module(parts["reference"], space)
        except (KeyError, RuntimeError) as error:
            raise SearchError(f"these tensors are no policy for this space ({error})") from error
        if self.reference is not None:
            self.reference.requires_grad_(False)
        self.penalty = ElasticPenalty(parts["fisher"], parts["anchor"]) if parts["fisher"] else None

    def _module(self, tensors: dict[str, Tensor], space: SearchSpace) -> ArchitecturePolicy | None:
        if not tensors:
            return None
        module = ArchitecturePolicy(space, tensors["embed.weight"].shape[1], activation=self.settings.activation)
        module.load_state_dict(tensors)
        return module

    def choices(self, context: Tensor) -> Choices:
        """What the policy would choose on a task, without dropout and without gradients.

        Raises:
            SearchError: before the first search.
        """
        if self.policy is None:
            raise SearchError("this policy has not seen a task yet; call search first")
        with torch.no_grad():
            return self.policy.without_dropout(context)


def policy_fisher(policy: ArchitecturePolicy, context: Tensor, n_samples: int, seed: int) -> dict[str, Tensor]:
    """The diagonal Fisher information of a policy's weights on a task, from architectures drawn from it, no dropout."""
    choices = policy.without_dropout(context)
    drawn = choices.sample(n_samples, torch.Generator().manual_seed(seed))
    return diagonal_fisher((choices.log_probability([one])[0] for one in drawn), named_subset(policy))


def reinforce_search(
    space: SearchSpace,
    objective: Objective,
    n_evaluations: int,
    *,
    context: Tensor,
    seed: int = 0,
    settings: ReinforceSettings | None = None,
) -> SearchResult:
    """`Reinforce` on one task in one call, with a policy that starts anew."""
    strategy = Reinforce(settings, continual=False, policy_seed=derived_seed(seed, "policy"))
    return strategy.search(space, objective, n_evaluations, context=context, seed=seed)
