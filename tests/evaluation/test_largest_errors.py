"""The gallery shows the rows that are worst by another computation, for every dataset there is and kind of target."""

import json

import made_up_pictures
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from laboratory import node
from PIL import Image

from dlrun.config.instantiate import build_part
from dlrun.config.parts import get_builtin_conf, list_group_options
from dlrun.core.dataset import Dataset
from dlrun.core.types import Field
from dlrun.data import display
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.evaluation import worst_errors

WITHOUT_TARGETS = (
    "content_style",
    "frogs",
    "photograph",
    "pictures",
)  # nothing is answered, so nothing is wrong
DATASETS = [
    name for name in list_group_options(get_builtin_conf(), "data") if name not in WITHOUT_TARGETS
]
TABLE = "size,town,rooms,garden,pool,price,kind\n" + "".join(
    f"{'' if row % 11 == 0 else 20 + row % 40},{['a', '', 'c'][row % 3]},{row % 4},{row % 2},{row % 5 // 3},{row * 3},"
    f"{'flat' if row % 7 < 3 else 'house'}\n"
    for row in range(150)
)


def load(name, folder, **changes):
    """A dataset as its YAML says, its synthetic sample where it has one; of a small table with gaps for csv."""
    settings = node("data", name)
    if "source" in settings:
        settings["source"] = "sample"
    if name == "csv":
        (folder / "own.csv").write_text(TABLE)
        settings |= {"path": str(folder / "own.csv"), "target": "kind"}
    if name == "texts":
        (folder / "own.csv").write_text(
            "text,kind\n"
            + "".join(f"a {['good', 'poor'][r % 2]} one {r},{r % 2}\n" for r in range(90))
        )
        settings |= {"path": str(folder / "own.csv"), "text": "text", "target": "kind"}
    if name == "series":
        rows = (f"{row},{row * 7 % 11},{row * 3 % 5}" for row in range(150))
        (folder / "own.csv").write_text("\n".join(["hour,sold,left", *rows]))
        settings |= {
            "path": str(folder / "own.csv"),
            "time": "hour",
            "target": "sold",
            "lookback": 6,
        }
    if name == "images":
        made_up_pictures.folder(folder / "photos", {"cat": 40, "dog": 40})
        settings |= {"path": str(folder / "photos")}
    if "predict" in settings:  # one long text
        settings |= {"predict": "next", "length": 30, "step": 40, "test": 0.1}
    if "size" in settings:
        settings["size"] = [32, 48]
    return build_part({**settings, **changes})


def answered(raw: Dataset, rows, seed=0):
    """Random answers as a trainer gives them, in their own unit, beside the truths. Then the targets' fields."""
    data = prepare(raw, np.arange(len(raw)), None)
    table = transform_rows(raw, data, rows)
    truths = next(table.batches(len(table)))
    generator = torch.Generator().manual_seed(seed)
    answers = {}
    for name, field in data.spec.targets.items():
        logits = 2 * torch.randn(len(table), field.num_outputs, generator=generator)
        answers[name] = (
            field.to_original_units(field.apply_activation(logits)).numpy(),
            field.to_original_units(truths[name]).numpy(),
        )
    return answers, data.spec.targets


def torch_loss(field: Field, answer, truth):
    """The same loss as torch has it, row by row."""
    answer, truth = torch.from_numpy(answer), torch.from_numpy(truth)
    if field.kind == "category":
        return F.nll_loss(
            answer.clamp_min(worst_errors.MIN_PROBABILITY).log(), truth, reduction="none"
        )
    if field.kind in ("binary", "multilabel"):
        return F.binary_cross_entropy(answer, truth, reduction="none").mean(1)
    return F.l1_loss(answer, truth, reduction="none").mean(1)


def check(raw, rows, indices, folder, split):
    """Write the gallery of these rows and compare it with a plain sort; answers with its entries."""
    answers, fields = answered(raw, {name: column[indices] for name, column in rows.items()})
    path = worst_errors.write_largest_errors(
        folder, "wider-fold-2", split, raw, rows, indices, answers, fields
    )
    assert path == folder / "errors" / f"wider-fold-2-{split}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    target = next(iter(fields))
    losses = torch_loss(fields[target], *answers[target])
    worst = losses.argsort(descending=True, stable=True)[:12]
    assert [entry["loss"] for entry in found] == pytest.approx(losses[worst].tolist(), rel=1e-4)
    assert len(found) == 12 and {entry["row"] for entry in found} == set(
        indices[worst.numpy()].tolist()
    )
    for entry in found:
        assert entry["target"] == target and entry["truth"] and entry["answer"]
        look(entry["shown"], folder / "errors")
    return found


def look(view, folder):
    if "image" in view:
        with Image.open(folder / view["image"]) as picture:
            picture.load()
            assert max(picture.size) >= 130
    assert {"text": "text", "image": "image", "row": "cells"}[view["kind"]] in view
    assert all(isinstance(text, str) and text for text in view.get("cells", {}).values())


def test_the_glob_is_not_quiet():
    assert len(DATASETS) >= 11 and "csv" in DATASETS


@pytest.mark.parametrize("name", DATASETS)
def test_the_worst_rows_of_every_dataset(name, tmp_path):
    raw = load(name, tmp_path)
    validation = np.random.RandomState(1).permutation(len(raw))[: len(raw) // 3]
    found = check(raw, raw.dev, validation, tmp_path, "val")
    rows = raw.test()
    check(raw, rows, np.arange(len(rows[next(iter(raw.targets))])), tmp_path, "test")
    pictures = sorted(path.name for path in (tmp_path / "errors").glob("*.png"))
    assert len(pictures) == (24 if raw.inputs.get("image") else 0)
    assert (
        len({path.name for path in (tmp_path / "errors").iterdir()}) == len(pictures) + 2
    )  # nothing half-written
    labels = raw.labels.get(next(iter(raw.targets)))
    if labels:
        assert {entry["truth"] for entry in found} <= set(labels)
        assert all(entry["answer"].rpartition(" ")[0] in labels for entry in found)


def test_a_table_shows_its_gaps_and_several_targets_name_the_first(tmp_path):
    raw = load("csv", tmp_path, target=["price", "rooms"], kind="auto")
    found = check(raw, raw.dev, np.arange(0, len(raw), 2), tmp_path, "val")
    cells = display.describe_raw_row(raw, raw.dev, found[0]["row"])["cells"]
    assert (
        list(cells) == ["size", "garden", "pool", "town", "kind"]
        and cells == found[0]["shown"]["cells"]
    )
    assert found[0]["target"] == "price" and found[0]["truth"] == str(
        int(raw.dev["price"][found[0]["row"]])
    )


def test_labels_that_a_row_may_have_several_of(tmp_path):
    raw = load("csv", tmp_path, target=["garden", "pool"], kind="multilabel")
    for entry in check(raw, raw.dev, np.arange(len(raw)), tmp_path, "val"):
        true = [
            name
            for name, has in zip(("garden", "pool"), raw.dev["labels"][entry["row"]], strict=True)
            if has
        ]
        assert entry["truth"] == (", ".join(true) or "(none)")


@pytest.mark.parametrize(
    "field, answer, truth, said",
    [
        (Field("binary", (1,), labels=("no", "yes")), [0.02], [1.0], ("yes", "no 0.98")),
        (Field("binary", (1,)), [0.75], [0.0], ("0", "1 0.75")),
        (Field("category", (), 3, ("a", "b", "c")), [0.1, 0.2, 0.7], 0, ("a", "c 0.70")),
        (
            Field("multilabel", (3,), 3, ("a", "b", "c")),
            [0.9, 0.6, 0.1],
            [0, 1, 1],
            ("b, c", "a 0.90, b 0.60"),
        ),
        (Field("multilabel", (2,), 2, ("a", "b")), [0.4, 0.3], [0, 0], ("(none)", "(none)")),
        (Field("number", (1,)), [15.2], [452600.0], ("452600", "15.2")),
        (Field("number", (2,)), [1234.56, 0.00025], [1.0, -2.0], ("1, -2", "1234.6, 0.00025")),
    ],
)
def test_answers_in_words(field, answer, truth, said):
    found = worst_errors.describe_row(field, np.array(answer, np.float32), np.array(truth))
    assert (found["truth"], found["answer"]) == said


def test_certain_and_wrong_is_the_worst_and_no_loss_is_infinite(tmp_path):
    raw = load("digits", tmp_path)
    rows = np.arange(40)
    truth = raw.dev["digit"][rows]
    answer = np.eye(10, dtype=np.float32)[truth]
    answer[7] = np.roll(answer[7], 1)
    worst_errors.write_largest_errors(
        tmp_path,
        "fit",
        "val",
        raw,
        raw.dev,
        rows,
        {"digit": (answer, truth)},
        {"digit": Field("category", (), 10)},
    )
    found = json.loads((tmp_path / "errors" / "fit-val.json").read_text())
    assert found[0]["row"] == 7 and 10 < found[0]["loss"] < 20
    assert [entry["row"] for entry in found[1:4]] == [0, 1, 2] and found[1]["loss"] == 0


def test_writing_again_replaces(tmp_path):
    raw = load("digits", tmp_path)
    for seed in (1, 2):
        answers, fields = answered(
            raw, {name: column[:30] for name, column in raw.dev.items()}, seed
        )
        path = worst_errors.write_largest_errors(
            tmp_path, "fit", "val", raw, raw.dev, np.arange(30), answers, fields
        )
    files = {entry["shown"]["image"] for entry in json.loads(path.read_text())}
    assert files == {path.name for path in path.parent.glob("*.png")} and len(files) == 12
    first = json.loads(path.read_text())[0]
    with Image.open(path.parent / first["shown"]["image"]) as picture:
        times = picture.width // 8
        assert (np.asarray(picture)[::times, ::times] == raw.dev["image"][first["row"], 0]).all()


def test_of_ten_thousand_rows_only_the_worst_are_looked_at(tmp_path, monkeypatch):
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (10_000, 1, 28, 28)).astype(np.uint8)
    raw = Dataset(
        {"image": images, "digit": random.randint(0, 10, 10_000)},
        {"image": "image"},
        {"digit": "category"},
        {},
    )
    answer = random.dirichlet(np.ones(10), 10_000).astype(np.float32)
    answers = {"digit": (answer, raw.dev["digit"])}
    seen, ordinary = [], display.describe_raw_row
    monkeypatch.setattr(
        worst_errors,
        "describe_raw_row",
        lambda raw, rows, row: seen.append(row) or ordinary(raw, rows, row),
    )
    worst_errors.write_largest_errors(
        tmp_path,
        "fit",
        "val",
        raw,
        raw.dev,
        np.arange(10_000),
        answers,
        {"digit": Field("category")},
    )
    assert len(seen) == 12 and len(list((tmp_path / "errors").glob("*.png"))) == 12
