"""Callbacks look and leave no trace; TensorBoard reads what is written; a resumed run has each epoch once."""

from __future__ import annotations

import signal
import urllib.parse
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from laboratory import SPEC, node, same, table, trainer, weights, wired
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core import checkpoint
from dlrun.core.dataset import PreparedData
from dlrun.core.errors import TrainingInterrupted, UserError
from dlrun.core.stored_files import load_json_lines
from dlrun.core.types import EpochRecord, Field, Spec
from dlrun.data.loading.sequences import SequenceColumn
from dlrun.data.loading.table import DenseColumn, Table
from dlrun.models.layers import InputProjection
from dlrun.training import tensorboard_events
from dlrun.training.callbacks import ActivationWriter, BestCheckpoint, EarlyStopping, TensorBoard
from dlrun.training.module_trace import iter_named_tensors, trace_module_calls
from dlrun.training.schedules import Plateau, ScheduleState
from dlrun.training.tensorboard_views import build_module_graph, compute_layer_outputs

WORDS = ("", "▯", "the", "good film", "bad\tfilm", "old", "new")
READS = Spec({"text": Field("tokens", (), len(WORDS), WORDS)}, SPEC.targets)


class Reads(nn.Module):
    """Word vectors, dropout and a batch norm: it has noise and statistics to disturb."""

    def __init__(self):
        super().__init__()
        self.words, self.norm, self.noise = (
            nn.Embedding(len(WORDS), 4),
            nn.BatchNorm1d(4),
            nn.Dropout(0.5),
        )
        self.rnn, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, batch):
        vectors = self.norm(self.words(batch["text"]).mT).mT
        return {"y": self.head(self.noise(self.rnn(vectors)[0][:, -1]))}


def reader(folder, **settings):
    """A trainer of `Reads` on texts of different lengths."""
    engine = build_part(
        node("engine", "default", epochs=3, batch_size=8, device="cpu", save_every=1e9, **settings)
    )
    torch.manual_seed(0)
    made = wired(Reads(), engine, folder / "checkpoints" / "fit", node("optimizer", "rmsprop"))
    made.data = PreparedData(READS, texts(50), texts(20))
    return made


def texts(rows):
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, 9, (rows,), generator=generator)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values = torch.randint(
        1, len(WORDS), (int(starts[-1]),), generator=generator, dtype=torch.int32
    )
    return Table(
        {
            "text": SequenceColumn(values, starts, len(WORDS), 9, "front", False),
            "y": DenseColumn(lengths % 3),
        }
    )


def watched(made, *callbacks):
    """The same trainer with callbacks that have begun."""
    made.callbacks = [BestCheckpoint("val/loss"), *callbacks]
    for callback in callbacks:
        callback.begin(made)
    return made


ALL = TensorBoard(histograms=1, graph=True, embeddings=True), ActivationWriter(rows=2)


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}, {"precision": "bf16"}])
def test_looking_leaves_no_trace_not_even_in_the_middle_of_an_epoch(tmp_path, settings):
    alone, seen = (
        reader(tmp_path / "alone", **settings),
        watched(reader(tmp_path / "seen", **settings), *ALL),
    )
    alone.fit(), seen.fit()
    assert seen.history == alone.history and same(weights(seen), weights(alone))
    first, taken = watched(reader(tmp_path / "cut", **settings), *ALL), []
    take = first.runner.steps

    def counted(batch):
        if first.split == "train":
            taken.append(1)
            first.interrupted = signal.SIGTERM if len(taken) == 10 else 0
        return take(batch)

    first.runner.steps = counted
    with pytest.raises(TrainingInterrupted):
        first.fit()
    second = reader(tmp_path / "cut", **settings)
    second.restore(checkpoint.load_latest_or_none(second.folder / "last.pt"))
    assert second.position
    watched(second, *ALL).fit()
    assert second.history == alone.history and same(weights(second), weights(alone))
    one, other = (
        sorted((tmp_path / name / "activations/fit").iterdir()) for name in ("seen", "cut")
    )
    assert [file.name for file in other] == [f"epoch-00{number}.npz" for number in (1, 2, 3)]
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]
    board = tmp_path / "cut/tensorboard/fit"
    assert [event.step for event in accumulated(board / "val").Scalars("loss")] == [1, 2, 3]
    assert [event.step for event in accumulated(board / "model").Histograms("head/bias")] == [
        1,
        2,
        3,
    ]


def test_epochs_that_will_be_done_again_are_forgotten(tmp_path):
    watched(reader(tmp_path), *ALL).fit()
    files = lambda: sorted(  # noqa: E731
        file.name for file in (tmp_path / "tensorboard/fit/model").glob("events*")
    )
    before = files()
    assert before == [f"events.out.tfevents.00000{number}.dlrun" for number in range(4)]
    again = reader(tmp_path)
    again.epoch, again.history[:] = (
        1,
        [EpochRecord(1, "train", {"loss": 1.0}), EpochRecord(1, "val", {"loss": 1.0})],
    )
    watched(again, *ALL)
    assert files() == before[:2]
    assert [file.name for file in (tmp_path / "activations/fit").iterdir()] == ["epoch-001.npz"]


def test_activations_are_what_the_layers_answer_in_evaluation(tmp_path):
    made = watched(reader(tmp_path), *ALL)
    made.fit()
    with np.load(tmp_path / "activations/fit/epoch-003.npz") as arrays:
        found = dict(arrays)
    assert list(found) == ["words", "norm", "rnn.0", "rnn.1", "noise", "head"]
    model = made.objective.model.eval()
    batch = next(made.data.val.batches(2))
    with torch.no_grad():
        vectors = model.words(batch["text"])
        assert np.array_equal(found["words"], vectors.numpy())
        assert np.array_equal(found["rnn.0"], model.rnn(model.norm(vectors.mT).mT)[0].numpy())
        assert np.array_equal(found["head"], model(batch)["y"].numpy())
    assert np.array_equal(found["noise"], found["rnn.0"][:, -1])  # nothing is dropped


def test_without_validation_rows_the_first_training_rows_are_looked_at(tmp_path):
    made = trainer(tmp_path / "checkpoints/fit")
    made.data = PreparedData(SPEC, table())
    found = compute_layer_outputs(made, 3)
    model = made.objective.model.eval()
    assert np.array_equal(
        found["heads.y"], model({"x": table().columns["x"].values[:3]})["y"].detach().numpy()
    )


def test_a_compiled_network_cannot_be_looked_into(tmp_path):
    made = reader(tmp_path)
    made.settings = SimpleNamespace(**{**vars(made.settings), "compile": True})
    with pytest.raises(UserError, match="engine.compile=false"):
        watched(made, ActivationWriter(1))


class Tangle(nn.Module):
    """Packed, stored in place, several inputs at once, one layer called twice, one column not read."""

    def __init__(self):
        super().__init__()
        self.words, self.rnn = nn.Embedding(20, 4), nn.LSTM(4, 5, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.join = InputProjection(
            {"text": Field("number", (5,)), "bag": Field("bag", (6,), 6)}, 2
        )
        self.twice = nn.Linear(2, 2)

    def forward(self, batch):
        packed = pack_padded_sequence(
            self.encoder(self.words(batch["text"])), torch.tensor([7, 5, 2]), True
        )
        self_made = torch.zeros(3, 5)
        self_made[:] = pad_packed_sequence(self.rnn(packed)[0], True)[0].mean(1)
        joined = self.join({**batch, "text": self_made})
        return {"y": self.twice(joined) + self.twice(-joined)}


def test_who_reads_whom_is_found_through_any_function():
    torch.manual_seed(0)
    model = Tangle().eval()
    bag = torch.sparse_csr_tensor(
        [0, 1, 2, 3], [0, 1, 2], torch.ones(3), (3, 6), check_invariants=False
    )
    batch = {"text": torch.arange(21).reshape(3, 7) % 20, "bag": bag, "other": torch.ones(3)}
    with torch.no_grad():
        expected = model(batch)[
            "y"
        ]  # torch has a faster way through an encoder that nobody listens to
        made, answer = trace_module_calls(model, lambda: model(batch), batch)
    assert torch.allclose(answer["y"], expected, atol=1e-5)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    reads = {call.name: set(call.reads) for call in made}
    assert reads["words"] == {"text"} and reads["encoder.norm1"] == {"words", "encoder.dropout1"}
    assert reads["rnn"] == {"encoder.norm2"} and reads["join.linear"] == {"rnn"}
    assert reads["join"] == {"join.linear", "bag"} and reads["twice"] == reads["twice_2"] == {
        "join"
    }
    packed = dict(iter_named_tensors(next(call.output for call in made if call.name == "rnn")))
    assert packed[".0"].shape == (3, 7, 5)  # filled up again


def test_a_graph_begins_with_the_columns_and_ends_with_the_answers(tmp_path):
    nodes = {name: (kind, reads) for name, kind, reads in build_module_graph(reader(tmp_path))}
    assert nodes["text"] == ("tokens", ()) and "y" not in nodes
    assert nodes["model.words"] == ("Embedding", ("text",)) and nodes["model.rnn"] == (
        "GRU",
        ("model.norm",),
    )
    assert nodes["answer/y"] == ("Answer", ("model.head",))
    assert all(read in nodes for _, reads in nodes.values() for read in reads)


def accumulated(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(
        str(folder), size_guidance={"histograms": 0, "images": 0, "scalars": 0}
    )
    accumulator.Reload()
    return accumulator


def test_tensorboard_reads_histograms_and_the_graph(tmp_path):
    made = watched(reader(tmp_path), TensorBoard(histograms=2, graph=True))
    before = made.objective.model.head.weight.detach().clone()
    made.callbacks.append(
        lambda t: before.copy_(t.objective.model.head.weight) if t.epoch == 2 else None
    )
    made.fit()
    found = accumulated(tmp_path / "tensorboard/fit/model")
    assert {"words/weight", "rnn/weight_hh_l0", "head/weight", "head/bias"} <= set(
        found.Tags()["histograms"]
    )
    (event,) = found.Histograms("head/weight")
    value = event.histogram_value
    assert event.step == 2 and value.num == sum(value.bucket) == 18
    assert (value.min, value.max) == (before.min().item(), before.max().item())
    assert value.sum == pytest.approx(before.double().sum().item())
    ops = {node.name: (node.op, list(node.input)) for node in found.Graph().node}
    assert ops["model/rnn"] == ("GRU", ["model/norm"]) and ops["answer/y"] == (
        "Answer",
        ["model/head"],
    )


def test_the_projector_reads_vectors_and_words(tmp_path):
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client
    from werkzeug.wrappers import Response

    made = watched(reader(tmp_path), TensorBoard(embeddings=True))
    made.fit()
    top = str(tmp_path / "tensorboard")
    many = EventMultiplexer().AddRunsFromDirectory(top)
    many.Reload()
    plugin = ProjectorPlugin(
        TBContext(logdir=top, data_provider=MultiplexerDataProvider(many, top), multiplexer=many)
    )
    apps = plugin.get_plugin_apps()

    def asked(route):
        query = urllib.parse.urlencode({"run": "fit/model", "name": "text"})
        answer = Client(apps[route], Response).get(f"{route}?{query}")
        assert answer.status_code == 200, answer.text
        return answer.data

    vectors = np.frombuffer(asked("/tensor"), np.float32).reshape(len(WORDS), 4)
    assert np.allclose(vectors, made.objective.model.words.weight.detach().numpy(), rtol=1e-5)
    assert asked("/metadata").decode().split("\n")[:-1] == [
        "(0)",
        "▯",
        "the",
        "good film",
        "bad film",
        "old",
        "new",
    ]


def test_pictures_are_those_of_the_first_batch(tmp_path):
    import io

    from PIL import Image

    made = trainer(tmp_path / "checkpoints/fit")
    images = torch.rand(50, 1, 6, 5, generator=torch.Generator().manual_seed(1))
    rows = Table({"image": DenseColumn(images), "y": table().columns["y"]})
    made.data = PreparedData(Spec({"image": Field("image", (1, 6, 5))}, SPEC.targets), rows)
    TensorBoard(images=3).begin(made)
    found = accumulated(tmp_path / "tensorboard/fit/model")
    assert sorted(found.Tags()["images"]) == ["image/0", "image/1", "image/2"]
    batch = next(rows.batches(3, seed=made.seed))["image"]
    for place in range(3):
        (event,) = found.Images(f"image/{place}")
        shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        assert (event.width, event.height) == (5, 6)
        assert np.array_equal(shown, (batch[place, 0] * 255).round().to(torch.uint8).numpy())


def test_what_there_is_not_is_refused_before_the_first_epoch(tmp_path):
    with pytest.raises(UserError, match="no word vectors for number 'x'"):
        TensorBoard(embeddings=True).begin(trainer(tmp_path / "checkpoints/fit"))
    with pytest.raises(UserError, match="no images among number 'x'"):
        TensorBoard(images=2).begin(trainer(tmp_path / "checkpoints/fit"))


def test_infinite_weights_and_equal_ones_have_histograms():
    found = tensorboard_events.build_histogram_summary(
        {"a": np.full(5, 2.0), "b": np.array([1.0, np.inf, np.nan]), "c": np.array([np.nan])}
    )
    assert [(value.tag, value.histo.num) for value in found.value] == [("a", 5), ("b", 1)]


def test_the_book_s_patience_of_one_and_its_plateau():
    history = [
        EpochRecord(epoch, "train", {"accuracy": value})
        for epoch, value in enumerate((0.5, 0.7, 0.7, 0.9), 1)
    ]
    stops = []
    for count in range(1, 5):
        told = SimpleNamespace(history=history[:count], stop="")
        EarlyStopping("train/accuracy", 1, 0.0, "max")(told)
        stops.append(bool(told.stop))
    assert stops == [False, False, True, False]  # the epoch after the best one is not better
    falling = Plateau("val/loss", 10, 0.1)
    losses = [
        EpochRecord(epoch, "val", {"loss": 1.0 if epoch == 1 else 2.0}) for epoch in range(1, 25)
    ]
    factors = [falling(ScheduleState(0, 1, losses[:count])) for count in range(1, 25)]
    assert [factors.count(value) for value in (1.0, 0.1, 0.1**2)] == [10, 10, 4]


RUN = ("task=digits", "engine.epochs=2", "model.units=[8]", "engine.device=cpu")


def test_a_run_with_all_of_them_is_the_run_without(tmp_path):
    every = "callback=[keep_best,early_stopping,tensorboard,activations]"
    more = [
        every,
        "callback.early_stopping.monitor=train/accuracy",
        "callback.early_stopping.patience=1",
    ]
    more += [
        "callback.tensorboard.histograms=1",
        "callback.tensorboard.graph=true",
        "callback.tensorboard.images=2",
    ]
    assert main([*RUN, "callback=keep_best", f"output={tmp_path / 'without'}"]) == 0
    assert main([*RUN, *more, f"output={tmp_path / 'with'}"]) == 0
    plain, seen = (next((tmp_path / name).rglob("history.jsonl")) for name in ("without", "with"))
    assert load_json_lines(plain) == load_json_lines(seen)
    place = seen.parent
    assert len(list((place / "activations/fit").glob("*.npz"))) == 2
    found = accumulated(place / "tensorboard/fit/model")
    assert [event.step for event in found.Histograms("heads.digit/weight")] == [1, 2]
    assert len(found.Tags()["images"]) == 2 and found.Graph().node


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["callback=[tensorboard]", "callback.tensorboard.embeddings=true"],
            "no word vectors for image 'image'",
        ),
        (
            ["callback=[tensorboard]", "callback.tensorboard.histograms=-1"],
            "histograms=-1: it must be a whole number",
        ),
        (
            ["callback=[activations]", "callback.activations.rows=0"],
            "rows=0: it must be a whole number from 1 up",
        ),
        (
            ["callback=[early_stopping]", "callback.early_stopping.monitor=val/acuracy"],
            "is not measured; there are:",
        ),
        (["callback=[activaions]"], "did you mean 'activations'"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, capsys, words, told):
    assert main([*RUN, *words, f"output={tmp_path}"]) == 2
    assert told in capsys.readouterr().err


def test_what_is_shown_of_the_last_epoch_is_kept_when_another_callback_ends_the_fit(tmp_path):
    words = [
        "task=digits",
        "objective=variational",
        "model=vae_dense",
        "callback=[samples,early_stopping]",
    ]
    words += [
        "callback.samples.every=50",
        "callback.early_stopping.patience=1",
        "callback.early_stopping.least=1e9",
    ]
    assert main([*words, "engine.epochs=5", f"output={tmp_path}"]) == 0
    assert {file.name.partition("-")[2] for file in tmp_path.rglob("samples/fit/*")} == {
        "epoch-0002.png"
    }
