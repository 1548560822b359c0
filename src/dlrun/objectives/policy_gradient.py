"""Reinforcement learning by policy gradient: make actions that went well more likely."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.config.annotations import Count, Fraction, Natural, WorldPart
from dlrun.core.errors import UserError
from dlrun.core.objective import (
    ImageGrid,
    Objective,
    ObjectiveContext,
    SampleGenerator,
    ScatterPlot,
)
from dlrun.core.types import Batch, Score, Spec, Step
from dlrun.data.environments import Environment
from dlrun.evaluation.metrics import NO_VARIATION, check_sample_size
from dlrun.models.baselines import build_baseline

OBSERVATION, ACTION = "observation", "action"


@dataclass(frozen=True)
class Episodes:
    """B episodes in parallel, over the T steps of the longest one.

    Attributes:
        observations: (T, B, …), before each action.
        actions: (T, B).
        rewards: (T, B); 0 after the end of an episode.
        active: (T, B), whether the step belongs to its episode.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    active: Tensor

    @property
    def total_rewards(self) -> Tensor:
        """The sum of rewards of each episode (B,)."""
        return self.rewards.sum(0)


@dataclass(frozen=True)
class ReturnEstimator:
    """The discounted return that is credited to each action.

    Attributes:
        discount: Factor on a reward that comes a step later.
        normalize: Whether returns are standardized over all steps of a batch, so that some actions
            did well and others badly.
    """

    discount: float
    normalize: bool

    def __call__(self, episodes: Episodes) -> Tensor:
        """The credit of each step, (n,) in the order of `observations[active]`."""
        returns = torch.empty_like(episodes.rewards)
        next_return = torch.zeros_like(episodes.rewards[0])
        for step_index in reversed(range(len(returns))):
            # From the end backwards: each return is its reward plus the discounted next one.
            returns[step_index] = next_return = (
                episodes.rewards[step_index] + self.discount * next_return
            )
        credits = returns[episodes.active]
        return (
            (credits - credits.mean()) / (credits.std(correction=0) + 1e-8)
            if self.normalize
            else credits
        )


@torch.no_grad()
def run_episodes(
    world: Environment, starts: Tensor, choose: Callable[[Tensor], Tensor]
) -> Episodes:
    """Run whole episodes.

    Args:
        world: Takes actions, gives observations and rewards.
        starts: First observations (B, …).
        choose: Observations (B, …) → actions (B,).
    """
    steps = []
    observations, active = starts, torch.ones(len(starts), dtype=torch.bool)
    world.begin(starts)
    while bool(active.any()):
        actions = choose(observations)
        next_observations, rewards, ended = world.step(actions)
        steps.append((observations, actions, rewards * active, active))
        observations, active = next_observations, active & ~ended
    return Episodes(*(torch.stack(column) for column in zip(*steps, strict=True)))


class PolicyGradient(Objective):
    """One step a batch: run its episodes, then follow their policy gradient.

    The loss is minus the mean reward of an episode; its gradient is estimated from the actions that
    were taken, so that the loss has the value of the one and the gradient of the other (Foerster et
    al. 2018).

    Args:
        model: Observation → logits of the actions.
        world: The environment.
        return_estimator: Credits rewards to actions.
        spec: Names the numbers of an observation and the actions.
        starts: First observations of the episodes that are shown.
        greedy: Whether the likeliest action is taken in evaluation; in training all are drawn.
    """

    goals = {"loss": "min", "reward": "max", "length": "max"}
    default_samples = ("episode",)

    def __init__(
        self,
        model: nn.Module,
        world: Environment,
        return_estimator: ReturnEstimator,
        spec: Spec,
        starts: Tensor,
        greedy: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.world, self.return_estimator = model, world, return_estimator
        self.spec, self.starts, self.greedy = spec, starts.cpu(), greedy
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.groups = {"model": trainable} if trainable else {}
        self.generators: dict[str, SampleGenerator] = {
            "episode": self.episode,
            "choices": self.choices,
        }
        self.make_baseline: Callable[[], PolicyGradient | None] = lambda: None

    def steps(self, batch: Batch) -> Iterator[Step]:
        episodes = self.run_episodes(batch[OBSERVATION])
        reward, gain = episodes.total_rewards.mean(), self.policy_gain(episodes)
        lengths = episodes.active.sum(0).float()
        yield Step(
            "model",
            # The value of -reward, the gradient of -gain.
            gain.detach() - gain - reward,
            measured={"reward": reward, "length": lengths.mean()},
        )

    def baseline_objective(self) -> PolicyGradient | None:
        """A player that draws its actions in the proportions of the rows."""
        return self.make_baseline()

    def run_episodes(self, starts: Tensor) -> Episodes:
        """Episodes of the present policy."""
        return run_episodes(self.world, starts.cpu(), self.choose_actions)

    def choose_actions(self, observations: Tensor) -> Tensor:
        """An action (B,) for each observation (B, …)."""
        logits = self.logits(observations).cpu()
        if self.greedy and not self.training:
            return logits.argmax(-1)
        return torch.multinomial(logits.softmax(-1), 1)[:, 0]

    def logits(self, observations: Tensor) -> Tensor:
        """How likely each action is (n, actions), as logits."""
        device = next(iter((*self.model.parameters(), *self.model.buffers()))).device
        raw_logits: Tensor = self.model({OBSERVATION: observations.to(device)})[ACTION]
        return raw_logits.float()

    def policy_gain(self, episodes: Episodes) -> Tensor:
        """The log-probability of each action times its credit.

        A sum over steps, a mean over episodes.
        """
        active = episodes.active
        log_probabilities = self.logits(episodes.observations[active]).log_softmax(-1)
        taken = log_probabilities.gather(
            1, episodes.actions[active][:, None].to(log_probabilities.device)
        )[:, 0]
        return (taken * self.return_estimator(episodes).to(taken.device)).sum() / active.shape[1]

    def split_scores(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """The mean reward with its 95 % interval over episodes."""
        totals = torch.cat(
            [self.run_episodes(batch[OBSERVATION]).total_rewards for batch in batches]
        ).double()
        mean, count = float(totals.mean()), len(totals)
        half = 1.96 * float(totals.std()) / count**0.5 if count > 1 else 0.0
        reason = check_sample_size(count) or ("" if half else NO_VARIATION)
        low, high = (None, None) if reason else (mean - half, mean + half)
        return {"reward": Score(mean, low, high, count, "max", reason)}

    def episode(
        self, *, number: Natural = 0, every: Count = 4, steps: Count = 200
    ) -> Iterator[ImageGrid]:
        """An animation of one episode.

        Args:
            number: Row that it begins with.
            every: One frame in so many steps.
            steps: Steps that are shown at most.
        """
        if number >= len(self.starts):
            raise UserError(
                f"number={number}: there are {len(self.starts)} rows to begin with, from 0 on"
            )
        episodes = self.run_episodes(self.starts[number : number + 1])
        length = len(episodes.rewards)
        description = (
            f"an episode of {length} steps, reward {float(episodes.total_rewards[0]):g}, every "
            f"{every} of the first {steps}"
        )
        yield ImageGrid(
            self.world.render(episodes.observations[:steps:every, 0]), 1, description, animated=True
        )

    def choices(
        self, *, across: Natural = 2, up: Natural = 3, episodes: Count = 8
    ) -> Iterator[ScatterPlot]:
        """The action at every step of some episodes, in a plane of two numbers of the observation.

        Args:
            across: Number of the observation on the horizontal axis.
            up: On the vertical axis.
            episodes: How many.
        """
        names, actions = self.spec.inputs[OBSERVATION].labels, self.spec.targets[ACTION].labels
        if max(across, up) >= len(names):
            raise UserError(
                f"across={across} up={up}: numbers from 0 to {len(names) - 1}: {', '.join(names)}"
            )
        shown_episodes = self.run_episodes(self.starts[:episodes])
        observations = shown_episodes.observations[shown_episodes.active]
        action_numbers = shown_episodes.actions[shown_episodes.active]
        description = (
            f"{len(action_numbers):,} moments of {shown_episodes.active.shape[1]} episodes, and "
            "what was done in them"
        )
        yield ScatterPlot(
            observations[:, [across, up]],
            action_numbers,
            actions,
            (names[across], names[up]),
            description,
        )


def policy(
    context: ObjectiveContext,
    *,
    world: WorldPart,
    discount: Fraction,
    baseline: Literal["normalize", "none"],
) -> PolicyGradient:
    """A policy that reads `observation` and predicts `action`; the rows are where episodes begin.

    The baseline draws its actions in the proportions of the rows.

    Args:
        context: The objective's context.
        world: The environment, see `dlrun.data.environments`.
        discount: Factor on a reward that comes a step later.
        baseline: Whether returns are standardized over a batch.

    Raises:
        UserError: if the rows are not observations and actions.
    """
    spec, return_estimator = context.data.spec, ReturnEstimator(discount, baseline == "normalize")
    fields = {**spec.inputs, **spec.targets}
    if (
        set(fields) != {OBSERVATION, ACTION}
        or fields[ACTION].kind != "category"
        or fields[OBSERVATION].kind != "number"
    ):
        available = ", ".join(f"{field.kind} '{name}'" for name, field in fields.items())
        raise UserError(
            f"objective=policy plays from rows of number '{OBSERVATION}' and category "
            f"'{ACTION}', as task=cartpole has them; the data give {available}"
        )
    source = context.data.val or context.data.train
    starts = next(source.batches(len(source)))[OBSERVATION]
    objective = PolicyGradient(context.model, world, return_estimator, spec, starts)
    objective.make_baseline = lambda: PolicyGradient(
        build_baseline(spec), world, return_estimator, spec, starts, greedy=False
    )
    return objective
