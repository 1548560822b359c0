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

    def __call__(self, played: Episodes) -> Tensor:
        """The credit of each moment of each episode, (n,) in the order of played.seen[played.there]."""
        found, ahead = torch.empty_like(played.rewards), torch.zeros_like(played.rewards[0])
        for moment in reversed(range(len(found))):
            found[moment] = ahead = played.rewards[moment] + self.discount * ahead
        came = found[played.active]
        return (came - came.mean()) / (came.std(correction=0) + 1e-8) if self.normalize else came


@torch.no_grad()
def run_episodes(
    world: Environment, starts: Tensor, choose: Callable[[Tensor], Tensor]
) -> Episodes:
    """Whole episodes from these starts (B, …). choose: observations (B, …) → actions (B,)."""
    moments = []
    seen, there = starts, torch.ones(len(starts), dtype=torch.bool)
    world.begin(starts)
    while bool(there.any()):
        done = choose(seen)
        after, rewards, over = world.step(done)
        moments.append((seen, done, rewards * there, there))
        seen, there = after, there & ~over
    return Episodes(*(torch.stack(column) for column in zip(*moments, strict=True)))


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
        credit: ReturnEstimator,
        spec: Spec,
        starts: Tensor,
        greedy: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.world, self.return_estimator = model, world, credit
        self.spec, self.starts, self.greedy = spec, starts.cpu(), greedy
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.groups = {"model": learning} if learning else {}
        self.generators: dict[str, SampleGenerator] = {
            "episode": self.episode,
            "choices": self.choices,
        }
        self.make_baseline: Callable[[], PolicyGradient | None] = lambda: None

    def steps(self, batch: Batch) -> Iterator[Step]:
        played = self.run_episodes(batch[OBSERVATION])
        reward, gain = played.total_rewards.mean(), self.policy_gain(played)
        lengths = played.active.sum(0).float()
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

    def choose_actions(self, seen: Tensor) -> Tensor:
        """An action (B,) for each observation (B, …)."""
        logits = self.logits(seen).cpu()
        if self.greedy and not self.training:
            return logits.argmax(-1)
        return torch.multinomial(logits.softmax(-1), 1)[:, 0]

    def logits(self, seen: Tensor) -> Tensor:
        """How likely each action is (n, actions), as logits."""
        device = next(iter((*self.model.parameters(), *self.model.buffers()))).device
        found: Tensor = self.model({OBSERVATION: seen.to(device)})[ACTION]
        return found.float()

    def policy_gain(self, played: Episodes) -> Tensor:
        """What the gradient is taken of: the log-probability of each action times what came of it, summed over an
        episode, the mean over episodes."""
        there = played.active
        chances = self.logits(played.observations[there]).log_softmax(-1)
        taken = chances.gather(1, played.actions[there][:, None].to(chances.device))[:, 0]
        return (taken * self.return_estimator(played).to(taken.device)).sum() / there.shape[1]

    def split_scores(self, batches: Iterable[Batch]) -> dict[str, Score]:
        """The mean reward with its 95 % interval over episodes."""
        totals = torch.cat(
            [self.run_episodes(batch[OBSERVATION]).total_rewards for batch in batches]
        ).double()
        mean, count = float(totals.mean()), len(totals)
        half = 1.96 * float(totals.std()) / count**0.5 if count > 1 else 0.0
        why = check_sample_size(count) or ("" if half else NO_VARIATION)
        low, high = (None, None) if why else (mean - half, mean + half)
        return {"reward": Score(mean, low, high, count, "max", why)}

    def episode(
        self, *, number: Natural = 0, every: Count = 4, steps: Count = 200
    ) -> Iterator[ImageGrid]:
        """One episode, or its first steps: a moment of `every` steps. number: which of the rows it begins with."""
        if number >= len(self.starts):
            raise UserError(
                f"number={number}: there are {len(self.starts)} rows to begin with, from 0 on"
            )
        played = self.run_episodes(self.starts[number : number + 1])
        length = len(played.rewards)
        about = f"an episode of {length} steps, reward {float(played.total_rewards[0]):g}, every {every} of the first {steps}"
        yield ImageGrid(
            self.world.render(played.observations[:steps:every, 0]), 1, about, animated=True
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
        played = self.run_episodes(self.starts[:episodes])
        seen, done = played.observations[played.active], played.actions[played.active]
        about = (
            f"{len(done):,} moments of {played.active.shape[1]} episodes, and what was done in them"
        )
        yield ScatterPlot(seen[:, [across, up]], done, actions, (names[across], names[up]), about)


def policy(
    given: ObjectiveContext,
    *,
    world: WorldPart,
    discount: Fraction,
    baseline: Literal["normalise", "none"],
) -> PolicyGradient:
    """The model as a player: it reads `observation` and answers `action`; the rows are where episodes begin.

    world: what it acts in (see data.control). discount, baseline: see Credit. What has to be beaten is a player who
    draws its actions as the rows' own. Raises UserError for data that are no beginnings.
    """
    spec, credit = given.data.spec, ReturnEstimator(discount, baseline == "normalise")
    there = {**spec.inputs, **spec.targets}
    if (
        set(there) != {OBSERVATION, ACTION}
        or there[ACTION].kind != "category"
        or there[OBSERVATION].kind != "number"
    ):
        told = ", ".join(f"{field.kind} '{name}'" for name, field in there.items())
        raise UserError(f"objective=policy plays from rows of number '{OBSERVATION}' and category '{ACTION}', as task=cartpole "
                      f"has them; the data give {told}")  # fmt: skip
    source = given.data.val or given.data.train
    starts = next(source.batches(len(source)))[OBSERVATION]
    found = PolicyGradient(given.model, world, credit, spec, starts)
    found.make_baseline = lambda: PolicyGradient(
        build_baseline(spec), world, credit, spec, starts, greedy=False
    )
    return found
