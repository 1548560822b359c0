"""A player's gradient is REINFORCE's by hand, its episodes are a function of seed and start, and it learns."""

from __future__ import annotations

import json
import sys
from itertools import product

import pytest
import torch
from laboratory import node
from PIL import Image
from torch import nn

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core import objective as artifacts
from dlrun.core.errors import UserError
from dlrun.core.objective import ObjectiveContext
from dlrun.core.types import Field, Spec
from dlrun.data.datasets.cartpole import START_RANGE
from dlrun.data.preprocessing.pipeline import prepare
from dlrun.objectives.policy_gradient import Episodes, PolicyGradient, ReturnEstimator, run_episodes

ACTIONS = Field("category", (), 2, ("left", "right"), torch.tensor([0.5, 0.5]))
SPEC = Spec({"observation": Field("number", (2,), labels=("here", "one"))}, {"action": ACTIONS})


class Line:
    """Two steps on a line: an action moves 1 to the right or the left, and where one stands then is the reward.

    An episode whose start is above 10 is over after its first step.
    """

    def begin(self, starts):
        self.at, self.short, self.moment = starts[:, 0].clone(), starts[:, 0] > 10, 0

    def step(self, actions):
        self.at, self.moment = self.at + 2.0 * actions - 1, self.moment + 1
        seen = torch.stack([self.at, torch.ones_like(self.at)], 1)
        return seen, self.at.clone(), self.short | (self.moment == 2)

    def pictures(self, observations):
        return observations[:, :1, None, None].expand(-1, 3, 4, 4).clamp(0, 1)


class Linear(nn.Module):
    """Logits that are a matrix times the observation."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[0.3, -0.2], [-0.1, 0.4]], dtype=torch.float64))

    def forward(self, batch):
        return {"action": batch["observation"].double() @ self.matrix.T}


def player(discount=1.0, normalize=False, greedy=True, starts=None):
    starts = torch.tensor([[0.5, 1.0], [2.0, 1.0], [-1.0, 1.0]]) if starts is None else starts
    return PolicyGradient(
        Linear(), Line(), ReturnEstimator(discount, normalize), SPEC, starts, greedy
    )


def starts(count, at=0.5):
    return torch.tensor([[at, 1.0]]).repeat(count, 1)


# --- the gradient -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_the_gradient_is_that_of_reinforce_by_hand(discount):
    objective = player(discount)
    torch.manual_seed(3)
    (step,) = objective.steps({"observation": objective.starts})
    step.loss.backward()
    torch.manual_seed(3)
    played = objective.run_episodes(objective.starts)
    by_hand = torch.zeros(2, 2, dtype=torch.float64)
    for episode in range(3):
        for moment in range(2):
            came = sum(
                discount**later * played.rewards[moment + later, episode]
                for later in range(2 - moment)
            )
            seen = played.observations[moment, episode].double()
            chances = (objective.model.matrix.detach() @ seen).softmax(0)
            chosen = nn.functional.one_hot(played.actions[moment, episode], 2)
            by_hand -= came * torch.outer(chosen - chances, seen) / 3
    assert torch.allclose(objective.model.matrix.grad, by_hand, rtol=1e-6)
    assert step.group == "model" and step.loss.item() == pytest.approx(
        -float(played.total_rewards.mean())
    )
    assert float(step.measured["reward"]) == pytest.approx(float(played.total_rewards.mean()))
    assert float(step.measured["length"]) == 2


def test_its_mean_over_everything_that_may_happen_is_the_gradient_of_the_mean_reward():
    objective = player()
    matrix, estimated, expected = objective.model.matrix, torch.zeros(2, 2, dtype=torch.float64), 0
    for actions in product((0, 1), repeat=2):
        doing = iter(actions)
        played = run_episodes(
            objective.world, starts(1), lambda seen, doing=doing: torch.tensor([next(doing)])
        )
        chance = torch.stack(
            [
                (matrix @ played.observations[m, 0].double()).softmax(0)[a]
                for m, a in enumerate(actions)
            ]
        ).prod()
        expected = expected + chance * played.total_rewards[0]
        estimated += chance.detach() * torch.autograd.grad(objective.policy_gain(played), matrix)[0]
    assert torch.allclose(torch.autograd.grad(expected, matrix)[0], estimated, rtol=1e-6)
    assert float(estimated.abs().max()) > 0.1


def test_normalized_credit_has_mean_zero_and_counts_no_moment_after_the_end():
    rewards = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    there = torch.tensor([[True, True], [True, False], [True, False]])
    played = Episodes(torch.zeros(3, 2, 1), torch.zeros(3, 2, dtype=torch.long), rewards, there)
    assert ReturnEstimator(0.5, False)(played).tolist() == [1.75, 1.0, 1.5, 1.0]
    found = ReturnEstimator(0.5, True)(played)
    assert float(found.mean()) == pytest.approx(0, abs=1e-6) and float(
        found.std(correction=0)
    ) == pytest.approx(1)
    assert played.total_rewards.tolist() == [3, 1]


# --- episodes ---------------------------------------------------------------------------------------------------------


def test_an_episode_that_is_over_counts_no_more():
    played = run_episodes(
        Line(),
        torch.tensor([[0.0, 1.0], [20.0, 1.0]]),
        lambda seen: torch.ones(len(seen), dtype=torch.long),
    )
    assert played.active.tolist() == [
        [True, True],
        [True, False],
    ] and played.total_rewards.tolist() == [3, 21]
    (step,) = player(starts=starts(1)).steps(
        {"observation": torch.tensor([[0.0, 1.0], [20.0, 1.0]])}
    )
    assert float(step.measured["length"]) == 1.5


def test_the_same_seed_has_the_same_episodes_and_measuring_draws_nothing():
    objective, many = player(), starts(64)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(objective.run_episodes(many).actions)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    objective.eval()
    before = torch.get_rng_state()
    measured = objective.run_episodes(many)
    assert (
        torch.equal(before, torch.get_rng_state())
        and (measured.actions == measured.actions[:, :1]).all()
    )
    assert len(player(greedy=False).eval().run_episodes(many).actions.unique()) == 2


def test_what_an_episode_has_brought_is_judged_with_an_interval():
    objective = player().eval()
    score = objective.split_scores([{"observation": starts(20)}, {"observation": starts(4, 5.0)}])[
        "reward"
    ]
    assert score.n == 24 and score.low < score.value < score.high
    few = objective.split_scores([{"observation": starts(1)}])["reward"]
    assert few.n == 1 and few.low is None


def test_it_is_given_what_it_needs_or_refuses():
    pytest.importorskip("gymnasium", reason="needs the extra dlrun[control]")
    raw, digits = build_part(node("data", "cartpole")), build_part(node("data", "digits"))
    data = prepare(raw, torch.arange(100).numpy(), torch.arange(100, 140).numpy())
    objective = build_part(
        node("objective", "policy"),
        ObjectiveContext(build_part(node("model", "dense"), data.spec), data, raw),
    )
    assert len(objective.starts) == 40 and not objective.baseline_objective().groups
    other = prepare(digits, torch.arange(100).numpy(), None)
    with pytest.raises(
        UserError, match="plays from rows of number 'observation' .* the data give image 'image'"
    ):
        build_part(
            node("objective", "policy"),
            ObjectiveContext(build_part(node("model", "dense"), other.spec), other, digits),
        )


# --- CartPole ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def carts():
    pytest.importorskip("gymnasium", reason="needs the extra dlrun[control]")
    from dlrun.data.environments import make_cartpole

    return make_cartpole(limit=60)


def test_episodes_begin_near_rest_and_are_always_the_same():
    raw, again = (build_part(node("data", "cartpole")) for _ in range(2))
    seen = raw.dev["observation"]
    assert (
        seen.shape == (400, 4)
        and abs(seen).max() <= START_RANGE
        and (seen == again.dev["observation"]).all()
    )
    held = {tuple(row) for row in raw.test()["observation"].tolist()}
    assert len(held) == 100 and not held & {tuple(row) for row in seen.tolist()}


def test_side_by_side_they_are_gymnasiums_own_one_by_one(carts):
    import gymnasium

    begins = torch.from_numpy(build_part(node("data", "cartpole")).dev["observation"][:6])
    choose = lambda seen: (seen[:, 2] > 0).long()  # noqa: E731
    played = run_episodes(carts, begins, choose)
    for episode in range(len(begins)):
        one = gymnasium.make("CartPole-v1", max_episode_steps=60)
        one.reset(seed=0)
        one.unwrapped.state = begins[episode].double().numpy()
        for moment in range(int(played.active[:, episode].sum())):
            seen, reward, fallen, late, _ = one.step(int(played.actions[moment, episode]))
            assert reward == played.rewards[moment, episode] == 1
            if not fallen | late:
                assert torch.allclose(
                    torch.from_numpy(seen), played.observations[moment + 1, episode], atol=1e-5
                )
        assert fallen | late
    assert 10 < played.total_rewards.min() < played.total_rewards.max() <= 60


def test_a_picture_shows_where_the_cart_and_its_pole_are(carts):
    shown = carts.render(
        torch.tensor([[0.0, 0, 0, 0], [1.2, 0, 0, 0], [0.0, 0, 0.5, 0], [0.0, 0, -0.5, 0]])
    )
    dark = lambda pixels: (pixels < 0.3).all(0).nonzero()[:, 1].float().mean()  # noqa: E731
    pole = lambda pixels: (pixels[0] - pixels[2] > 0.3).nonzero()[:, 1].float().mean()  # noqa: E731
    assert shown.shape == (4, 3, 100, 240) and abs(float(dark(shown[0])) - 119.5) < 1.5
    assert float(dark(shown[1]) - dark(shown[0])) == pytest.approx(60, abs=1.5)
    assert float(pole(shown[2])) > 125 and float(pole(shown[3])) < 115


def test_shown_episodes_are_as_long_as_they_are(carts, tmp_path):
    torch.manual_seed(0)
    raw = build_part(node("data", "cartpole"))
    data = prepare(raw, torch.arange(100).numpy(), None)
    begins = torch.from_numpy(raw.dev["observation"][:3])
    objective = PolicyGradient(
        build_part(node("model", "dense"), data.spec),
        carts,
        ReturnEstimator(1.0, True),
        data.spec,
        begins,
    ).eval()
    length = int(objective.run_episodes(begins[2:]).active.sum())
    (file,) = artifacts.write_artifacts(
        objective.episode(number=2, every=3, steps=999), tmp_path, "episode"
    )
    with Image.open(file) as moving:
        assert file.suffix == ".gif" and moving.n_frames == -(-length // 3)
    (points,) = objective.choices(across=0, up=1, episodes=2)
    assert len(points.positions) == int(
        objective.run_episodes(begins[:2]).active.sum()
    ) and points.names == (
        "left",
        "right",
    )
    with pytest.raises(UserError, match="number=3: there are 3 rows to begin with"):
        next(objective.episode(number=3))
    with pytest.raises(UserError, match="across=4 up=1: numbers from 0 to 3: position"):
        next(objective.choices(across=4, up=1))


def run(folder, *words):
    assert main(["task=cartpole", "engine.device=cpu", *words, f"output={folder}"]) == 0
    (found,) = [path.parent for path in folder.rglob("results.jsonl")]
    return json.loads((found / "results.jsonl").read_text()), found


def test_it_learns_to_balance(carts, tmp_path):
    result, folder = run(tmp_path, "engine.epochs=6", "callback=[keep_best]")
    reward, bar = (result[part]["reward"] for part in ("scores", "baseline"))
    assert 15 < bar["value"] < 30 and reward["value"] > 4 * bar["value"] and reward["n"] == 80
    assert (
        result["scores"]["loss"]["value"] == pytest.approx(-reward["value"])
        and result["note"] == ""
    )


def test_without_the_library_it_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert main(["task=cartpole", f"output={tmp_path}"]) == 2
    assert (
        "needs the library gymnasium" in (said := capsys.readouterr().err)
        and "pip install 'dlrun[control]'" in said
    )


def test_the_extra_is_named_in_the_package():
    import tomllib
    from pathlib import Path

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert extras["control"] and set(extras["control"]) <= set(extras["dev"])
