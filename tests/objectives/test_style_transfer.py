"""Style transfer: what each part of the loss asks for, what it leaves alone, and that it comes down."""

from __future__ import annotations

import json

import pytest
import torch
from laboratory import node
from test_deep_dream import painter, real
from torch import nn

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core.dataset import PreparedData
from dlrun.core.errors import UserError
from dlrun.core.objective import ObjectiveContext
from dlrun.core.types import Field, Spec
from dlrun.data.loading.table import DenseColumn, Table
from dlrun.models.pretrained.backbones import Backbone
from dlrun.models.pretrained.feature_extractor import FeatureExtractor
from dlrun.objectives.style_transfer import (
    gram_matrix,
    match_brightness,
    to_grayscale,
    total_variation,
)

ROLES = {"content": {"3": 1.0}, "style": {"1": 1.0, "3": 2.0}}


def noise(seed, height=20, width=24):
    """Something with colors and with structure."""
    random = torch.rand(
        1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed)
    )
    return nn.functional.interpolate(random, (height, width), mode="bilinear")


def objective(styles=(2,), **changes):
    """A style transfer by a tiny random network."""
    torch.manual_seed(3)
    parts = [
        nn.Conv2d(3, 6, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
    ]
    model = FeatureExtractor(Backbone("tiny", nn.Sequential(*parts), 3, (24, 24)), ROLES, "")
    columns = {"content": noise(1)} | {f"style_{seed}": noise(seed, 32, 28) for seed in styles}
    spec = Spec({name: Field("image", tuple(value.shape[1:])) for name, value in columns.items()})
    data = PreparedData(spec, Table({name: DenseColumn(value) for name, value in columns.items()}))
    return build_part(
        node("objective", "style", ticks=5, **changes), ObjectiveContext(model, data, None)
    )


def fitted(made, folder, steps=40):
    """The same after so many steps of the engine with Adam."""
    trainer = painter(made, folder, steps, epochs=1)
    trainer.optimization.optimizers = {
        "canvas": build_part(node("optimizer", "adam_pixels"), [made.pictures])
    }
    trainer.optimization.apply = {"canvas": trainer.optimization.optimizers["canvas"].step}
    trainer.fit()
    return trainer


def losses(made):
    return {name: float(value.detach()) for name, value in made.loss_terms().items()}


def test_with_nothing_but_content_the_photograph_stays_as_it_is(tmp_path):
    made = objective(style_weight=0.0, variation_weight=0.0)
    fitted(made, tmp_path)
    assert torch.equal(made.pictures, noise(1)) and torch.equal(made.render_image(), noise(1))


def test_what_is_what_it_is_compared_with_is_at_no_distance():
    made = objective()
    assert losses(made)["content"] == 0 and losses(made)["style"] > 0
    made.targets.style.update(
        {name: gram_matrix(answer) for name, answer in made.model(noise(1), ["1", "3"]).items()}
    )
    assert losses(made)["style"] == 0


def test_each_part_can_be_brought_down_and_remaining_is_what_is_left_of_the_loss(tmp_path):
    made = objective(start="noise")
    before = losses(made)
    trainer = fitted(made, tmp_path, 150)
    after, (row,) = losses(made), trainer.history
    assert all(after[name] < before[name] / 2 for name in after)
    assert float(made.first) == pytest.approx(sum(before.values()))
    parts = [row.values[f"loss_{name}"] for name in ("content", "style", "variation")]
    assert row.values["loss"] == pytest.approx(sum(parts)) and set(row.values) == set(made.goals)
    assert row.values["remaining"] == pytest.approx(row.values["loss"] / float(made.first))


def test_a_gram_matrix_says_what_goes_together_and_not_where():
    answer = torch.rand(1, 5, 6, 7)
    order = torch.randperm(42)
    for other in (
        answer.roll((2, 3), (2, 3)),
        answer.flatten(2)[:, :, order].reshape(1, 5, 6, 7),
        answer.flip(3),
    ):
        assert torch.allclose(
            gram_matrix(other), gram_matrix(answer), atol=1e-6
        ) and not torch.equal(other, answer)
    assert torch.allclose(
        gram_matrix(answer.repeat(1, 1, 2, 3)), gram_matrix(answer), atol=1e-6
    )  # nor how much of it there is
    assert not torch.allclose(gram_matrix(answer.flip(1)), gram_matrix(answer), atol=1e-2)


def test_slopes_are_those_of_the_formulas():
    answer = torch.rand(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gram_matrix, answer) and torch.autograd.gradcheck(
        total_variation, answer
    )
    flat = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    total_variation(flat).backward()
    assert float(total_variation(flat).detach()) == 0 and bool(
        (flat.grad == 0).all()
    )  # no nan where nothing varies


def test_with_kept_colors_only_luminance_changes(tmp_path):
    made = objective(keep_colors=True)
    fitted(made, tmp_path)
    between = lambda picture: torch.stack(  # noqa: E731
        [picture[:, 0] - picture[:, 1], picture[:, 1] - picture[:, 2]]
    )
    painted = made.render_image().detach()
    assert made.pictures.shape[1] == 1 and torch.allclose(
        between(painted), between(noise(1)), atol=1e-6
    )
    assert torch.allclose(to_grayscale(painted), made.pictures, atol=1e-6)
    assert float((painted - noise(1)).detach().abs().mean()) > 0.01
    grey = match_brightness(noise(2), noise(1))
    assert torch.allclose(grey.mean(), to_grayscale(noise(1)).mean()) and torch.allclose(
        grey.std(), to_grayscale(noise(1)).std()
    )


def test_several_styles_are_mixed_by_their_weights():
    one, other = objective((2,)).targets.style, objective((5,)).targets.style
    both, first = (
        objective((2, 5)).targets.style,
        objective((2, 5), style_weights=[3, 0]).targets.style,
    )
    quarter = objective((2, 5), style_weights=[1, 3]).targets.style
    for name in ("1", "3"):
        assert torch.allclose(both[name], (one[name] + other[name]) / 2) and torch.equal(
            first[name], one[name]
        )
        assert torch.allclose(quarter[name], one[name] / 4 + 3 * other[name] / 4)
    with pytest.raises(UserError, match=r"style_weights=\[1.0\]: give each of 2 styles a weight"):
        objective((2, 5), style_weights=[1])
    with pytest.raises(UserError, match="needs a second image"):
        objective(())


def test_aims_are_taken_once_and_nothing_but_the_canvas_is_kept():
    made = objective()
    aims = [*made.targets.content.values(), *made.targets.style.values(), made.first]
    assert not any(aim.requires_grad for aim in aims)
    assert list(made.state_dict()) == ["pictures"] and made.groups == {"canvas": [made.pictures]}
    run = []
    made.model.blocks[1].register_forward_hook(lambda *_: run.append(1))
    next(made.steps({}))
    assert len(run) == 1  # one visit of the network a step


def test_layers_count_by_their_shares():
    assert objective().layers == {"content": {"3": 1.0}, "style": {"1": 1 / 3, "3": 2 / 3}}


@real
@pytest.mark.slow
def test_a_real_network_leaves_a_small_share_of_the_loss_and_goes_down_steadily(tmp_path):
    assert main(["task=style", "data.size=128", f"output={tmp_path}"]) == 0
    (history,) = tmp_path.rglob("history.jsonl")
    rows = [json.loads(line)["values"] for line in history.read_text().splitlines()]
    (result,) = (json.loads(path.read_text()) for path in tmp_path.rglob("results.jsonl"))
    totals = [row["loss"] for row in rows]
    assert all(later <= 1.02 * before for before, later in zip(totals, totals[1:], strict=False))
    assert result["scores"]["remaining"]["value"] <= 0.15 and totals[-1] <= 0.15 * totals[0]
    assert rows[-1]["loss_style"] <= 0.15 * rows[0]["loss_style"]
