"""Words near each other: the cosines of numpy, the same both ways, and clear words where there are none."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dlrun.cli.completion import complete_command_line
from dlrun.cli.main import main
from dlrun.cli.neighbors import find_nearest, find_token_input, parse_neighbor_query
from dlrun.core.errors import UserError
from dlrun.core.types import Field
from dlrun.models.pretrained.earlier_run import load_run_model
from dlrun.models.sequence.embeddings import find_word_embeddings

KINDS = {"pleased": "wonderful superb lovely great moving", "cross": "awful dull boring poor weak"}
IDLE = "the film was a story with actors in it"


def letters(file, rows=120):
    """Texts of words that please, or displease, among others."""
    random = np.random.RandomState(5)
    lines = ["text,mood"]
    for row in range(rows):
        mood = list(KINDS)[row % 2]
        words = [
            random.choice((KINDS[mood] if random.rand() < 0.5 else IDLE).split()) for _ in range(8)
        ]
        lines.append(f"{' '.join(words)},{mood}")
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with word vectors."""
    place = tmp_path_factory.mktemp("texts")
    words = [
        "task=texts",
        f"data.path={letters(place / 't.csv')}",
        "data.text=text",
        "data.target=mood",
    ]
    words += [
        "text=sequence",
        "text.length=8",
        "model=embedding",
        "engine.epochs=20",
        "engine.batch_size=16",
    ]
    assert main([*words, "callback=none", f"output={place / 'out'}"]) == 0
    (file,) = (place / "out").rglob("config.yaml")
    return file.parent


def test_they_are_the_nearest_by_numpy_s_cosine_and_never_the_word_itself(run, capsys):
    assert main(["neighbors", str(run), "awful", "great", "count=100"]) == 0
    shown = capsys.readouterr().out.replace("─", "").split("nearest to ")
    labels = json.loads((run / "fields.json").read_text())["inputs"]["text"]["labels"]
    net = load_run_model(run)
    vectors = find_word_embeddings(net.model, net.spec.inputs)["text"].double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for word, text in zip(("awful", "great"), shown[1:], strict=True):
        rows = [
            line.split()
            for line in text.splitlines()[1:]
            if len(line.split()) == 2 and "cosine" not in line
        ]
        cosines = vectors @ vectors[labels.index(word)]
        expected = sorted(
            ((labels[place], cosines[place]) for place in range(2, len(labels))),
            key=lambda one: -one[1],
        )
        expected = [(name, f"{cosine:.4f}") for name, cosine in expected if name != word]
        assert len(expected) == 18 and [tuple(row) for row in rows] == expected
    assert f"among the vectors of 19 words, {vectors.shape[1]} numbers each" in shown[2]


def test_words_of_one_kind_are_near_each_other(run):
    asked = parse_neighbor_query([str(run), "awful"])
    net = load_run_model(run)
    vectors = find_word_embeddings(net.model, net.spec.inputs)["text"].double().numpy()
    rows, _ = find_nearest(asked.labels.index("awful"), vectors, np.arange(2, len(vectors)), 4)
    assert {asked.labels[row] for row in rows} == set(KINDS["cross"].split()) - {"awful"}


def test_near_is_the_same_both_ways_and_zeros_have_no_direction():
    vectors = np.random.RandomState(1).randn(12, 5)
    vectors[7] = 0
    among = np.arange(12)
    found = {
        place: dict(zip(*find_nearest(place, vectors, among, 20), strict=True))
        for place in range(12)
        if place != 7
    }
    for place, near in found.items():
        assert place not in near and 7 not in near and len(near) == 10
        assert list(near.values()) == sorted(near.values(), reverse=True)
        assert all(cosine == pytest.approx(found[other][place]) for other, cosine in near.items())
    assert len(find_nearest(0, vectors, among, 3)[0]) == 3


def test_vectors_are_found_in_the_reader_of_their_input_or_anywhere():
    fields = {"a": Field("tokens", (), 5), "b": Field("tokens", (), 5), "x": Field("number", (5,))}
    first, second = nn.Embedding(5, 2), nn.Embedding(5, 3)
    model = nn.Module()
    model.readers = nn.ModuleDict({"a": nn.Sequential(nn.Embedding(9, 2), first), "b": second})
    found = find_word_embeddings(model, fields)
    assert (
        list(found) == ["a", "b"]
        and torch.equal(found["a"], first.weight)
        and torch.equal(found["b"], second.weight)
    )
    assert list(find_word_embeddings(nn.Sequential(second), fields)) == ["a", "b"]
    assert find_word_embeddings(nn.Linear(5, 5), fields) == {}


def test_a_word_whose_vector_is_zero_is_told_apart(run, monkeypatch, capsys):
    monkeypatch.setattr(
        "dlrun.cli.neighbors.get_token_vectors", lambda asked: np.zeros((len(asked.labels), 3))
    )
    assert main(["neighbors", str(run), "awful"]) == 2
    assert "the vector of 'awful' is zero" in capsys.readouterr().err


def test_what_makes_no_sense_is_refused(run, tmp_path, capsys):
    cases = {
        "needs a run folder": [],
        "is no run folder": [str(tmp_path), "awful"],
        "neighbors of which words": [str(run)],
        "'awfull' is none of the 19 words": [str(run), "great", "awfull"],
        "close to it: awful": [str(run), "awfull"],
        "close to it: great": [str(run), "GREAT"],
        "'▯' is none of": [str(run), "▯"],
        "count=0: it must be a whole number from 1 up": [str(run), "great", "count=0"],
        "no input of words 'body'. There are: text": [str(run), "great", "input=body"],
        "did you mean 'neighbors'": ["neighbor"],
    }
    for told, words in cases.items():
        assert main(["neighbors", *words] if words != ["neighbor"] else words) == 2
        assert told.replace("'neighbors'", "dlrun neighbors") in capsys.readouterr().err


def fields(folder, **inputs):
    """A run folder that says no more than what it reads."""
    (folder / "config.yaml").write_text("engine: {}\n")
    plain = {
        name: {"kind": kind, "labels": list(labels)} for name, (kind, labels) in inputs.items()
    }
    (folder / "fields.json").write_text(json.dumps({"inputs": plain, "targets": {}}))
    return folder


def test_runs_without_words_say_what_they_read(tmp_path):
    with pytest.raises(UserError, match="has no word vectors: it reads image 'image'"):
        find_token_input(fields(tmp_path, image=("image", ())), "", "")
    with pytest.raises(UserError, match="has no word vectors: it reads bag 'review'"):
        find_token_input(fields(tmp_path, review=("bag", ("a", "b"))), "", "")
    with pytest.raises(
        UserError, match="does not know the words of its numbers: it reads tokens 'text'"
    ):
        find_token_input(fields(tmp_path, text=("tokens", ())), "", "")
    two = fields(tmp_path, text=("tokens", ("", "a")), question=("tokens", ("", "b")))
    with pytest.raises(UserError, match=r"say input=NAME\. There are: text, question"):
        find_token_input(two, "", "")
    assert find_token_input(two, "question", "") == ("question", ("", "b"))


def test_a_model_without_vectors_is_named(run, monkeypatch):
    from dlrun.cli import neighbors

    net = SimpleNamespace(
        model=nn.Linear(2, 2),
        spec=load_run_model(run).spec,
        config={"model": {"_target_": "dlrun.config.compatibility.x"}},
    )
    monkeypatch.setattr("dlrun.models.pretrained.earlier_run.load_run_model", lambda *_, **__: net)
    with pytest.raises(UserError, match="the model x has no vectors of the words of 'text'"):
        neighbors.get_token_vectors(parse_neighbor_query([str(run), "great"]))


def test_words_are_checked_before_torch_is_there(run):
    code = (
        "import sys\nfrom dlrun.cli.main import main\n"
        f"assert main(['neighbors', {str(run)!r}, 'awfull']) == 2\n"
        "print([name for name in ('torch', 'numpy', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tab_offers_what_can_be_set():
    assert complete_command_line(["neighbors", "outputs/run"], "c") == ["count="]
    assert "neighbors" in complete_command_line([], "nei")
