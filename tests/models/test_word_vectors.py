"""Published word vectors: found, read, counted, kept as they are, and not needed again."""

from __future__ import annotations

import zipfile

import pytest
import torch
from laboratory import node

from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError
from dlrun.core.types import Field, Spec
from dlrun.models.pretrained import weights
from dlrun.objectives.supervised import Supervised

LABELS = ("", "", "film", "good", "bad", "unheard")
FIELD = Field("tokens", (4,), 6, LABELS)
NAME = "glove.test.3d.txt"
LINES = "the 9 9 9\nfilm 1 2 3\nat the cinema 4 4 4\nbad -1 0 0.5\ngood .5 .5 .5\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRUN_DATA", str(tmp_path))
    (tmp_path / "glove").mkdir()
    (tmp_path / "glove" / NAME).write_text(LINES, encoding="utf-8")
    return tmp_path


def model(reader="gru", field=FIELD, init="keras", **settings):
    torch.manual_seed(0)
    spec = Spec({"x": field}, {"y": Field("binary", (1,), prior=torch.tensor([0.5]))})
    changes = {"filters": [3], "kernel": 2, "pool": [1]} if reader.startswith("conv") else {}
    changes |= {"heads": 1} if reader == "transformer" else {}
    changes |= {"vectors": NAME, "freeze": True, **settings}
    return build_part(
        node("model", reader, encoder=node("encoder", reader, **changes), init=init), spec
    )


@pytest.mark.parametrize("init", ["torch", "keras"])
@pytest.mark.parametrize(
    "reader", ["embedding", "gru", "rnn", "lstm", "conv1d", "conv_gru", "transformer"]
)
def test_words_have_the_vectors_of_the_file_and_others_have_zero(home, reader, init):
    built = model(reader, init=init)
    words = built.readers["x"].words
    wanted = [[0, 0, 0], [0, 0, 0], [1, 2, 3], [0.5, 0.5, 0.5], [-1, 0, 0.5], [0, 0, 0]]
    assert words.weight.tolist() == wanted and not words.weight.requires_grad
    assert built.note == f"{NAME} has vectors for 3 of 4 words (75%)"


def test_frozen_vectors_do_not_learn_and_others_do(home):
    x = {"x": torch.tensor([[2, 3, 4, 5]]), "y": torch.ones(1, 1)}
    for freeze in (True, False):
        built = model(freeze=freeze)
        objective = Supervised(built, {"y": torch.nn.BCEWithLogitsLoss()})
        inside = any(
            weight is built.readers["x"].words.weight for weight in objective.groups["model"]
        )
        assert inside is not freeze
        next(objective.steps(x)).loss.backward()
        assert (built.readers["x"].words.weight.grad is None) is freeze


def test_a_file_is_found_by_path_by_name_and_in_its_archive(home, tmp_path):
    inside = home / "glove" / NAME
    (home / "elsewhere.txt").write_text(LINES, encoding="utf-8")
    for vectors in (NAME, str(inside), str(home / "elsewhere.txt"), "elsewhere.txt"):
        assert model(vectors=vectors, embedding=3).readers["x"].words.weight[2].tolist() == [
            1,
            2,
            3,
        ]
    inside.unlink()
    with zipfile.ZipFile(home / "glove" / "glove.test.zip", "w") as archive:
        archive.writestr(NAME, LINES)
    assert model().readers["x"].words.weight[2].tolist() == [1, 2, 3]


def test_a_file_that_is_not_there_is_refused_with_what_there_is(home):
    with pytest.raises(UserError, match=f"no word vectors glove.6B.100d.txt.*{NAME}"):
        model(vectors="glove.6B.100d.txt")
    (home / "glove" / NAME).unlink()
    with pytest.raises(UserError, match="nothing of the kind"):
        model()


@pytest.mark.parametrize(("text", "said"), [
    ("film 1 2 3\nbad 1 two 3\n", "line 2: not a word and 3 numbers"),
    ("film 1 2 3\nbad 1 2\n", "line 2: not a word and 3 numbers"),
    ("film\n", "line 1: not a word"),
    ("film 1 2\n", "vectors of 2 numbers, not 3: say embedding=2"),
    ("voiture 1 2 3\n", "knows none of the 4 words"),
    ("", "knows none of the 4 words|vectors of 0 numbers"),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(home, text, said):
    (home / "glove" / NAME).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        model()


def test_a_file_in_another_encoding_is_refused(home):
    (home / "glove" / NAME).write_bytes("film 1 2 3\nthéâtre 1 2 3\n".encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read"):
        model()


def test_without_a_word_list_no_vectors_can_be_found(home):
    with pytest.raises(UserError, match="'x'.*no word list"):
        model(field=Field("tokens", (4,), 6))


def test_a_model_that_has_its_weights_needs_no_file(home):
    before = model()
    (home / "glove" / NAME).unlink()
    with weights.skip_weights():
        after = model()
    after.load_state_dict(before.state_dict())
    assert not after.readers["x"].words.weight.requires_grad
    x = {"x": torch.tensor([[2, 3, 4, 5]])}
    assert torch.equal(after(x)["y"], before(x)["y"])


@pytest.mark.parametrize("reader", ["embedding", "gru", "conv1d"])
def test_one_hot_words_are_the_rows_of_the_identity(reader):
    built = model(reader, vectors="one_hot", freeze=False)
    words = built.readers["x"].words
    found = words(torch.tensor([[0, 2, 5, 0]]))
    assert torch.equal(found[0], torch.eye(6)[[0, 2, 5, 0]] * torch.tensor([0.0, 1, 1, 0])[:, None])
    assert not list(words.parameters()) and built({"x": torch.tensor([[0, 2, 5, 3]])})[
        "y"
    ].shape == (1, 1)
