"""Reinforcement learning: act, see what comes of it, and make more likely what went well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count, Fraction, Natural, WorldPart
from dlrun.core.artifacts import ImageGrid, SampleGenerator, ScatterPlot
from dlrun.core.errors import UserError
from dlrun.core.objective import Objective
from dlrun.core.types import Batch, Score, Spec, Step
from dlrun.data.environments import Environment
from dlrun.evaluation.bootstrap import NO_VARIATION, check_sample_size
from dlrun.models.baselines import build_baseline
from dlrun.objectives.context import ObjectiveContext

OBSERVATION, ACTION = "observation", "action"


@dataclass(frozen=True)
class Episodes:
    """B episodes side by side, T moments long: what was seen (T, B, …), done and rewarded (T, B) in each of them.

    there: which moments (T, B) belong to an episode; the others come after its end, and their reward is 0.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    active: Tensor

    @property
    def total_rewards(self) -> Tensor:
        """What each episode (B,) has brought."""
        return self.rewards.sum(0)


@dataclass(frozen=True)
class ReturnEstimator:
    """How much of what came is put down to each action.

    discount: what comes a step later counts so many times as much. normalise: the mean over all moments of a batch is
    taken away, and what is left is divided by its standard deviation, so that some actions did well and others badly.
    """

    discount: float
    normalize: bool

    def __call__(self, episodes: Episodes) -> Tensor:
        """The credit of each moment of each episode, (n,) in the order of played.seen[played.there]."""
        returns, next_return = (
            torch.empty_like(episodes.rewards),
            torch.zeros_like(episodes.rewards[0]),
        )
        for step_index in reversed(range(len(returns))):
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
    """Whole episodes from these starts (B, …). choose: observations (B, …) → actions (B,)."""
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
    """One step a batch: play its episodes, then follow the policy gradient (REINFORCE, Williams 1992).

    The loss is minus the mean reward of an episode; its gradient is estimated from the actions that were taken, so that
    the loss has the value of the one and the gradient of the other (Foerster et al. 2018). Actions are drawn while it
    learns; then the likeliest is taken, or drawn too where it is not `greedy`. starts: where shown episodes begin.
    spec: what the numbers of an observation and the actions are called.
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
            gain.detach() - gain - reward,
            measured={"reward": reward, "length": lengths.mean()},
        )

    def baseline_objective(self) -> PolicyGradient | None:
        """A player that draws its actions in the proportions of the rows."""
        return self.make_baseline()

    def run_episodes(self, starts: Tensor) -> Episodes:
        """Episodes as the policy is now."""
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
        """What the gradient is taken of: the log-probability of each action times what came of it, summed over an
        episode, the mean over episodes."""
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
        """One episode, or its first steps: a moment of `every` steps. number: which of the rows it begins with."""
        if number >= len(self.starts):
            raise UserError(
                f"number={number}: there are {len(self.starts)} rows to begin with, from 0 on"
            )
        episodes = self.run_episodes(self.starts[number : number + 1])
        length = len(episodes.rewards)
        description = f"an episode of {length} steps, reward {float(episodes.total_rewards[0]):g}, every {every} of the first {steps}"
        yield ImageGrid(
            self.world.render(episodes.observations[:steps:every, 0]), 1, description, animated=True
        )

    def choices(
        self, *, across: Natural = 2, up: Natural = 3, episodes: Count = 8
    ) -> Iterator[ScatterPlot]:
        """What was done where: every moment of some episodes, in a plane of two of the observed numbers."""
        names, actions = self.spec.inputs[OBSERVATION].labels, self.spec.targets[ACTION].labels
        if max(across, up) >= len(names):
            raise UserError(
                f"across={across} up={up}: numbers from 0 to {len(names) - 1}: {', '.join(names)}"
            )
        shown_episodes = self.run_episodes(self.starts[:episodes])
        observations, action_numbers = (
            shown_episodes.observations[shown_episodes.active],
            shown_episodes.actions[shown_episodes.active],
        )
        description = f"{len(action_numbers):,} moments of {shown_episodes.active.shape[1]} episodes, and what was done in them"
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
    baseline: Literal["normalise", "none"],
) -> PolicyGradient:
    """The model as a player: it reads `observation` and answers `action`; the rows are where episodes begin.

    world: what it acts in (see data.control). discount, baseline: see Credit. What has to be beaten is a player who
    draws its actions as the rows' own. Raises UserError for data that are no beginnings.
    """
    spec, return_estimator = context.data.spec, ReturnEstimator(discount, baseline == "normalise")
    fields = {**spec.inputs, **spec.targets}
    if (
        set(fields) != {OBSERVATION, ACTION}
        or fields[ACTION].kind != "category"
        or fields[OBSERVATION].kind != "number"
    ):
        available = ", ".join(f"{field.kind} '{name}'" for name, field in fields.items())
        raise UserError(f"objective=policy plays from rows of number '{OBSERVATION}' and category '{ACTION}', as task=cartpole "
                      f"has them; the data give {available}")  # fmt: skip
    source = context.data.val or context.data.train
    starts = next(source.batches(len(source)))[OBSERVATION]
    objective = PolicyGradient(context.model, world, return_estimator, spec, starts)
    objective.make_baseline = lambda: PolicyGradient(
        build_baseline(spec), world, return_estimator, spec, starts, greedy=False
    )
    return objective
