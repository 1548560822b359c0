"""`dlrun visualize`: what it computes is what it says, on every image model, and it leaves no trace in the run."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from laboratory import node
from PIL import Image
from test_report_browser import BROWSER, DESK, PHONE, look
from torch import nn

from dlrun.cli.completion import complete_command_line
from dlrun.cli.main import main
from dlrun.cli.visualize import KINDS, parse_visualize_request
from dlrun.cli.visualize_kinds import get_plot_builder
from dlrun.cli.visualize_network import load_network
from dlrun.config.compatibility import NEEDS
from dlrun.config.compose import configure
from dlrun.config.instantiate import build_part
from dlrun.core.dataset import PreparedData
from dlrun.core.environment import collect_environment
from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import Field, Spec
from dlrun.data.loading.table import EmptyBatches
from dlrun.experiment.runner import Experiment
from dlrun.interpret import attribution, filter_visualization
from dlrun.interpret.attribution import (
    count_zero_channels,
    get_layer_activations,
    grad_cam,
    saliency,
    to_contrast_images,
)
from dlrun.interpret.model_summary import summarize_layers
from dlrun.interpret.target import select_output
from dlrun.launch.run_config import make_run_folder
from dlrun.objectives.image_optimization import ImageOptimization
from dlrun.report.build import write_report
from dlrun.report.interpretation import resize_grid, tile_images
from dlrun.training.optimization import Optimization
from dlrun.training.optimizers import NormalizedGradientDescent
from dlrun.training.trainer import Trainer

WITHOUT_WEIGHTS = {"pretrained"}  # those that read weights from a file are not offline
MODELS = sorted({name for name, need in NEEDS.items() if need == "image"} - WITHOUT_WEIGHTS)
SMALL = ["steps=2", "count=2", "size=24"]
PATCH, SIDE = 4, 16
SQUARE = Spec(
    {"image": Field("image", (1, SIDE, SIDE))},
    {"bright": Field("binary", (1,), labels=("no", "yes"))},
)


def trained_run(folder, *words):
    """A small finished run's folder, without a report."""
    words = [*words, "preset=smoke", "callback=[keep_best]", f"output={folder}"]
    config = configure(words, [])
    made = make_run_folder(config)
    RunFolder(made).write_request(config, words, collect_environment())
    Experiment(config, made).results()
    return made


@pytest.fixture
def unreported(monkeypatch):
    """A report is not written anew."""
    monkeypatch.setattr("dlrun.cli.report.write_report_pages", lambda runs: None)


@pytest.fixture(scope="module", params=MODELS)
def image_run(request, tmp_path_factory):
    return trained_run(
        tmp_path_factory.mktemp(request.param),
        "task=mnist",
        "engine.max_steps=2",
        f"model={request.param}",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained_run(
        tmp_path_factory.mktemp("run"), "task=digits", "model=convnet", "model.filters=[4,8]"
    )


def looked(folder, *words):
    return load_network(folder, (), parse_visualize_request(words))


def pictures(folder):
    return json.loads((folder / "visualize" / "pictures.json").read_text())


# filters


def two_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3)).eval()
    return net, filter_visualization.mean_filter_activation(net.requires_grad_(False), net[2])


def test_the_engine_raises_each_filters_excitement_step_by_step(tmp_path):
    _, measure = two_layers()
    canvas = ImageOptimization(
        filter_visualization.build_noise_images(8, (3, 20, 20), torch.device("cpu")),
        lambda pixels: -measure(pixels).mean(),
    )
    settings = replace(filter_visualization.OPTIMIZATION_SETTINGS, epochs=40)
    learner = Optimization(
        canvas.groups,
        lambda pixels: NormalizedGradientDescent(pixels, 1 / 255),
        settings,
        None,
        torch.device("cpu"),
    )
    trainer = Trainer(
        canvas, PreparedData(Spec({}), EmptyBatches(1)), settings, learner, {}, tmp_path
    )
    before = measure(canvas.pictures.detach())
    trainer.fit()
    losses = [row.values["loss"] for row in trainer.history]
    assert len(losses) == 40 and sum(np.diff(losses) < 0) >= 38
    assert bool((measure(canvas.pictures.detach()) > before).all())
    other = filter_visualization.optimize_filter_images(
        measure,
        filter_visualization.build_noise_images(8, (3, 20, 20), torch.device("cpu")),
        40,
        1.0,
    )
    assert np.array_equal(
        other.pictures, canvas.pictures.detach().numpy()
    )  # 40 epochs of a tick, or one of 40
    assert np.array_equal(other.before, before.numpy()) and (other.after > other.before).all()


def test_a_picture_moves_among_others_as_it_would_alone():
    _, measure = two_layers()
    start = filter_visualization.build_noise_images(8, (3, 20, 20), torch.device("cpu"))
    alone = filter_visualization.optimize_filter_images(measure, start[:1], 10, 1.0).pictures
    among = filter_visualization.optimize_filter_images(measure, start, 10, 1.0).pictures
    np.testing.assert_allclose(among[:1], alone, atol=1e-5)
    moved = np.abs(among - start.numpy()).reshape(8, -1)
    assert (moved.mean(1) > 5 / 255).all() and (
        moved.mean(1) <= 10 / 255
    ).all()  # ten steps, of length 1 each


def test_ticks_are_as_many_empty_batches_from_any_number_on():
    assert (
        list(EmptyBatches(7).batches(3)) == [{}] * 3
        and list(EmptyBatches(7).batches(1, start=5)) == [{}] * 2
        and len(EmptyBatches(7)) == 7
    )


def test_a_layer_is_heard_before_the_next_one_works_in_place():
    net, _ = two_layers()
    x = torch.randn(1, 3, 9, 9)
    out, kept = attribution.run_with_layer_outputs(lambda: net(x), {"first": net[0]})
    assert (
        torch.equal(kept["first"], net[0](x))
        and bool((kept["first"] < 0).any())
        and torch.equal(out, net(x))
    )
    assert not any(module._forward_hooks for module in net.modules())


def test_visible_pictures_are_centred_and_kernels_are_grey_at_zero():
    shown = filter_visualization.to_visible_images(
        np.random.default_rng(0).normal(3, 9, (4, 3, 50, 50))
    )
    assert shown.dtype == np.uint8 and abs(shown.mean() - 127) < 1 and abs(shown.std() - 25.5) < 1
    layer = nn.Conv2d(3, 2, 3)
    with torch.no_grad():
        layer.weight[0] = 0
        layer.weight[1, 0, 0, 0] = 9
    cells = filter_visualization.get_kernel_images(layer)
    assert (
        cells.shape == (2, 3, 3, 3) and set(cells[0].ravel()) == {128} and cells[1, 0, 0, 0] == 255
    )
    assert filter_visualization.get_kernel_images(nn.Conv2d(2, 5, 3)).shape == (10, 1, 3, 3)


# where a network looks


@pytest.fixture(scope="module")
def corner():
    """A network that has learned whether there is a bright patch in any corner; images with one, and where it is."""
    torch.manual_seed(1)
    truth = (torch.arange(128) % 2).float()[:, None]
    images = torch.rand(128, 1, SIDE, SIDE) / 10
    places = [divmod(number // 2 % 4, 2) for number in range(128)]
    for number in range(1, 128, 2):
        images[(number, 0, *quarter(places[number], PATCH))] += 0.9
    model = build_part(node("model", "convnet", filters=[8, 8], dense=[], ends="average"), SQUARE)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(
            model({"image": images})["bright"], truth
        )
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    optimizer.zero_grad()
    return model.eval(), images[1:17:2], places[1:17:2]


def quarter(place, side):
    """The slices of a corner: the first or last `side` rows, the first or last `side` columns."""
    return tuple(slice(-side, None) if last else slice(side) for last in place)


def test_heatmap_and_saliency_lie_where_the_only_information_is(corner):
    model, images, places = corner
    last = attribution.select_last_layer(
        attribution.select_image_layers(
            attribution.collect_layer_outputs(model, attribution.build_blank_batch(SQUARE)),
            model,
            "image",
        )
    )
    assert last.kind == "ReLU" and last.shape == (8, SIDE // 2, SIDE // 2)
    warm, bright = [], []
    for image, place in zip(images, places, strict=True):
        batch = {"image": image[None]}
        asked = select_output(SQUARE, model(batch), "bright")
        assert asked.label == "yes" and asked.probability > 0.5
        found = (
            grad_cam(model, batch, "image", last.name, asked),
            saliency(model, batch, "image", asked),
        )
        for shares, values in zip((warm, bright), found, strict=True):
            assert values.shape == (SIDE, SIDE) and values.min() >= 0 and values.max() == 1
            shares.append(values[quarter(place, SIDE // 2)].sum() / values.sum())
    assert set(places) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert np.mean(warm) > 0.9 and np.min(warm) > 0.7  # of what it marks; a quarter of the image
    assert np.mean(bright) > 0.5
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_saliency_of_a_linear_network_is_its_weights():
    model = build_part(node("model", "linear"), SQUARE)
    weights = (
        next(value for value in model.parameters() if value.numel() == SIDE**2)
        .detach()
        .reshape(SIDE, SIDE)
    )
    batch = {"image": torch.rand(1, 1, SIDE, SIDE)}
    found = saliency(model, batch, "image", select_output(SQUARE, model(batch), "bright"))
    np.testing.assert_allclose(found, (weights.abs() / weights.abs().max()).numpy(), rtol=1e-5)


def test_the_other_of_two_classes_has_the_opposite_score(corner):
    model, images, _ = corner
    outputs = {"bright": model({"image": images[:1]})["bright"].detach()}
    yes, no = (select_output(SQUARE, outputs, "bright", name) for name in ("yes", "no"))
    assert float(yes.score(outputs)) == -float(
        no.score(outputs)
    ) > 0 and yes.probability + no.probability == pytest.approx(1)
    three = Spec(
        SQUARE.inputs,
        {"a": Field("category", (), 3, ("x", "y", "z")), "b": Field("multilabel", (2,), 2)},
    )
    given = {"a": torch.tensor([[0.0, 2.0, 1.0]]), "b": torch.tensor([[-1.0, 3.0]])}
    assert (
        select_output(three, given, "a").label == "y"
        and float(select_output(three, given, "a", "z").score(given)) == 1
    )
    assert (
        select_output(three, given, "b").label == "1"
        and select_output(three, given, "b").index == 1
    )


def test_frozen_weights_hide_nothing(corner):
    model, images, _ = corner
    batch, layer = {"image": images[:1]}, "towers.image.4"
    asked = select_output(SQUARE, model(batch), "bright")
    free = grad_cam(model, batch, "image", layer, asked)
    model.requires_grad_(False)
    assert np.array_equal(grad_cam(model, batch, "image", layer, asked), free)
    model.requires_grad_(True)


def test_activations_are_the_layers_answers_and_a_silent_channel_is_dark(corner):
    model, images, _ = corner
    found = get_layer_activations(
        model, {"image": images[:1]}, ["towers.image.1", "tail.heads.bright"]
    )
    tower = model.towers["image"]
    assert np.array_equal(
        found["towers.image.1"], tower[1](tower[0](images[:1]))[0].detach().numpy()
    )
    assert found["tail.heads.bright"].shape == (1, 1, 1)
    array = np.stack([np.zeros((4, 4)), np.arange(16.0).reshape(4, 4)])
    shown = to_contrast_images(array)
    assert (
        count_zero_channels(array) == 1
        and set(shown[0].ravel()) == {0}
        and shown[1].mean() == pytest.approx(127.5, abs=1)
    )


def test_a_network_with_other_inputs_too_has_a_blank_row():
    inputs = {
        "photo": Field("image", (3, 16, 16)), "words": Field("bag", (9,), 9), "town": Field("category", (), 4),
        "age": Field("number", (2,)),
    }  # fmt: skip
    spec = Spec(inputs, {"price": Field("number", (1,))})
    model = build_part(node("model", "convnet", filters=[4]), spec)
    found = attribution.collect_layer_outputs(model, attribution.build_blank_batch(spec))
    assert [
        each.name
        for each in attribution.select_image_layers(found, model, "photo")
        if each.is_convolution
    ] == ["towers.photo.0"]
    assert "tail.heads.price" in [each.name for each in found]


# the command


def test_every_kind_runs_on_every_image_model_and_takes_every_layer_that_explain_lists(image_run):
    assert len(MODELS) >= 4
    look = looked(image_run, *SMALL)
    weights = [value.clone() for value in look.net.model.state_dict().values()]
    for kind in KINDS:
        drawings = list(get_plot_builder(kind)(look))
        assert drawings and all(drawing.caption for drawing in drawings), kind
    names = [layer.name for layer in summarize_layers(look.net.model, look.blank)]
    (first, *_) = look.views
    found = get_layer_activations(
        look.net.model, first.batch, [look.named(name).name for name in names]
    )
    assert len(found) == len(names) >= 5
    words = [f"layer=[{','.join(names)}]", "row=0", *SMALL]
    for kind in ("activations", "filters"):
        drawings = list(get_plot_builder(kind)(looked(image_run, *words)))
        assert [drawing.layer for drawing in drawings] == names
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights, look.net.model.state_dict().values(), strict=True)
    )


def digest(folder):
    """The content of all that the run has written, without what looking inside writes."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "visualize" not in file.parts
    ]
    kept = [file for file in files if not file.name.startswith("report.")]
    assert len(kept) >= 10
    return {
        file.relative_to(folder): hashlib.sha256(file.read_bytes()).hexdigest() for file in kept
    }


def test_the_run_is_left_as_it_was_and_its_report_shows_the_pictures(run, capsys):
    write_report(run)
    before = digest(run)
    capsys.readouterr()
    assert main(["visualize", str(run), "kind=all", "row=0", *SMALL]) == 0
    said = capsys.readouterr().out
    assert digest(run) == before
    entries = pictures(run)
    assert {entry["kind"] for entry in entries} == set(KINDS)
    for entry in entries:
        file = run / "visualize" / entry["file"]
        assert str(file) in said and file.stat().st_size > 3000
        assert re.fullmatch(rf"{entry['kind']}-{entry['layer']}-\d+\.png", entry["file"])
    page, text = (run / "report.html").read_text(), (run / "report.md").read_text()
    assert "A look inside" in page and "## A look inside" in text
    assert (
        all(entry["file"] in text for entry in entries)
        and page.count("towers.image.4 (ReLU, 8 × 4 × 4) sees") >= 1
    )
    assert page.count("<figure>") >= len(entries)


def test_a_run_is_evaluated_to_the_same_bits_afterwards(run, unreported):
    def scores():
        return [
            result.scores for result in Experiment(RunFolder(run).read_config(), run).evaluate()
        ]

    before = scores()
    assert main(["visualize", str(run), "kind=[heatmap,filters]", *SMALL]) == 0
    assert scores() == before


def test_what_takes_long_says_what_it_is_doing(run, capsys, unreported, monkeypatch):
    monkeypatch.setattr("dlrun.cli.visualize_kinds.PROGRESS_INTERVAL", 0.0)
    assert main(["visualize", str(run), "kind=filters", *SMALL]) == 0
    said = capsys.readouterr()
    for line in (
        "computing filters …",
        "2 steps of gradient ascent",
        "step 1 of 2",
        "drawing",
        "writing the report",
    ):
        assert line in said.err and line not in said.out


def test_a_kind_is_replaced_and_the_others_stay(run, unreported):
    assert main(["visualize", str(run), "kind=saliency", "row=[1,2]"]) == 0
    assert (
        main(["visualize", str(run), "kind=heatmap", "row=3", "class=7", "layer=towers.image.0"])
        == 0
    )
    (heat,) = [entry for entry in pictures(run) if entry["kind"] == "heatmap"]
    assert (
        heat["layer"] == "towers.image.0"
        and "row 3" in heat["caption"]
        and "sees 7" in heat["caption"]
    )
    assert main(["visualize", str(run), "kind=saliency", "row=5"]) == 0
    assert [entry["file"] for entry in pictures(run) if entry["kind"] == "saliency"] == [
        "saliency-image-1.png"
    ]
    assert not (run / "visualize" / "saliency-image-2.png").exists() and heat in pictures(run)


def test_a_list_of_pictures_leads_to_no_other_file(run):
    (run / "visualize").mkdir(exist_ok=True)
    bad = {
        "file": "../config.yaml",
        "kind": "weights",
        "layer": "",
        "caption": (odd := "".join(["zap", "otek"])),
    }
    (run / "visualize" / "pictures.json").write_text(json.dumps([bad]))
    assert main(["visualize", str(run), "kind=weights"]) == 0
    assert (run / "config.yaml").is_file() and odd not in (run / "report.html").read_text()


def test_pictures_of_ones_own(run, tmp_path, unreported):
    grey, color = tmp_path / "größe 8.png", tmp_path / "b.jpg"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(grey)
    Image.new("RGB", (40, 30), "red").save(color)
    look = looked(run, f"image=[{grey},{color}]", f"image={color}")
    assert [view.text for view in look.input_images] == [grey.name, "b.jpg", "b.jpg"]
    assert torch.equal(look.input_images[0].batch["image"].flatten(), torch.arange(64) / 255)
    assert main(["visualize", str(run), "kind=heatmap", f"image={grey}"]) == 0
    assert any(grey.name in entry["caption"] for entry in pictures(run))


def test_without_names_it_shows_validation_rows_of_different_classes(run):
    look = looked(run)
    texts = [view.text for view in look.input_images]
    rows = [int(re.match(r"row (\d+)", text)[1]) for text in texts]
    with np.load(run / "predictions" / "fit-val.npz") as kept:
        assert len(rows) == 4 and set(rows) <= set(kept["row"].tolist())
    assert len({text.partition("(")[2] for text in texts}) == 4


WRONG = {
    "kind=heatmaps": "no kind 'heatmaps': did you mean 'heatmap'.*activations, heatmap, .*weights, all",
    "kinds=all": "no setting 'kinds': did you mean kind=…",
    "layer=towers.image.99": r"'towers.image.99' is no layer.*There are: towers.image.0, .*tail.heads.digit",
    "class=eleven": "no class 'eleven' of target digit.*There are: 0, 1, 2",
    "target=color": "no target 'color'. There are: digit",
    "input=photo": "no image 'photo' among the inputs. There are: image",
    "image=nowhere.jpg": "there is no file nowhere.jpg",
    "row=x": "a row is a whole number",
    "row=9999": r"there are 1,\d+ development rows, 0 to 1\d+",
    "steps=0": "steps=0: it must be a whole number from 1 up",
    "rate=-1": "rate=-1: it must be a number above 0",
    "layer=": "there is nothing after layer=",
    "heatmap": "no setting 'heatmap'",
}


@pytest.mark.parametrize("word", WRONG)
def test_wrong_words_are_told_with_what_there_is(word, run, capsys):
    words = [word] if word.startswith("kind") else ["kind=heatmap", word]
    assert main(["visualize", str(run), *words]) == 2
    assert re.search(WRONG[word], capsys.readouterr().err)


def test_completion_offers_its_settings_and_kinds():
    words = ["visualize", "outputs/a"]
    assert complete_command_line(words, "kind=h") == ["kind=heatmap"] and complete_command_line(
        words, "kind=[weights,a"
    ) == [
        "kind=[weights,activations",
        "kind=[weights,all",
    ]
    assert complete_command_line(words, "l") == ["layer="]


def test_grids_have_every_cell_once_and_whole_pixels():
    cells = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, 3) * np.ones(
        (5, 24, 24, 1), np.uint8
    )
    sheet = tile_images(cells, 4, (255, 255, 255))
    assert sheet.shape == (50, 102, 3) and all(
        (sheet == value).all(2).sum() == 24 * 24 for value in range(5)
    )
    large = resize_grid(sheet)
    assert large.shape == (400, 816, 3) and np.array_equal(large[::8, ::8], sheet)
    assert resize_grid(np.zeros((100, 3000, 3), np.uint8)).shape == (25, 750, 3)


def test_what_a_layer_cannot_do_is_told(run):
    dense = "layer=tail.heads.digit"
    with pytest.raises(UserError, match=r"needs a layer whose output is maps.*towers\.image\.0"):
        list(get_plot_builder("heatmap")(looked(run, dense)))
    with pytest.raises(
        UserError,
        match=r"only a convolution's weights.*There are: towers\.image\.0, towers\.image\.3",
    ):
        list(get_plot_builder("weights")(looked(run, dense)))


def test_a_network_without_convolutions_has_its_saliency(tmp_path, capsys, unreported):
    folder = trained_run(tmp_path, "task=digits", "model=dense", "model.units=[8]")
    assert main(["visualize", str(folder), "kind=all", "row=0"]) == 0
    assert [entry["kind"] for entry in pictures(folder)] == ["saliency"]
    assert "left out: heatmap: model=dense has no convolutions" in capsys.readouterr().out
    assert main(["visualize", str(folder), "kind=heatmap"]) == 2


def test_a_run_that_reads_no_pictures_is_refused(tmp_path, capsys):
    folder = trained_run(tmp_path, "task=wine", "model=linear")
    assert main(["visualize", str(folder)]) == 2
    assert "reads no images" in capsys.readouterr().err
    assert main(["visualize", str(tmp_path)]) == 2 and main(["visualize"]) == 2
    assert "features" not in capsys.readouterr().err and not (folder / "visualize").exists()


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome here")
def test_a_browser_shows_the_look_inside(run, tmp_path, unreported):
    from dlrun.report.build import POLICY

    assert main(["visualize", str(run), "kind=[heatmap,weights]", "row=0"]) == 0
    text = (
        write_report(run)[-1].read_text().replace(POLICY, f"{POLICY}; script-src 'unsafe-inline'")
    )
    pages, console = look(tmp_path, {"run": text})
    for width in (PHONE, DESK):
        found = pages["run", width]
        assert (
            len(found["images"]) >= len(pictures(run))
            and all(found["images"])
            and found["wide"] == width
        )
    assert console == []
