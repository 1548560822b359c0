"""How texts become numbers: what is learned, and from which rows, beside what Keras and scikit-learn say."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
import torch
from laboratory import node
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from dlrun.config.instantiate import build_part
from dlrun.config.parts import get_builtin_conf, list_group_options
from dlrun.core.dataset import Ragged
from dlrun.core.errors import UserError
from dlrun.data.datasets.imdb_raw import imdb_text
from dlrun.data.loading.sequences import SequenceColumn
from dlrun.data.loading.table import SparseCounts, Table
from dlrun.data.preprocessing import padding
from dlrun.data.preprocessing.padding import pad_sequences
from dlrun.data.preprocessing.pipeline import describe_preprocessing, prepare
from dlrun.data.preprocessing.tokenizer import Tokenizer

OPTIONS = list_group_options(get_builtin_conf(), "text")
TOY = np.array(["The cat sat on the mat.", "The dog ate my homework."], object)
TEXTS = np.array(
    [
        "A film, a GREAT film!",
        "no film at all",
        "",
        "great: naïve — 'twas a bore",
        "a b a b a",
        "film " * 30,
    ],
    object,
)


def made(name, **changes):
    """A shipped option of the group `text`, with other values."""
    return build_part(node("text", name, **changes))


def texts(*rows):
    return np.array(rows, object)


def dense(bag):
    return torch.from_numpy(bag.matrix.toarray())


def batch(sequences):
    return next(sequences.batches(slice(None), len(sequences)))


def sample(step):
    return imdb_text(source="sample", text=step)


def test_there_is_an_option_for_each_way():
    assert len(OPTIONS) >= 9 and {
        "multi_hot",
        "counts",
        "tf_idf",
        "hashing",
        "sequence",
        "characters",
    } <= set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_prepares_and_says_what_it_learnt(name):
    if name == "subwords":
        pytest.importorskip("tokenizers")
    raw = sample(made(name))
    data = prepare(raw, np.arange(400), np.arange(400, 600))
    field, (learnt,) = (
        data.spec.inputs["review"],
        describe_preprocessing(data.preprocessors)["review"],
    )
    assert field.kind == raw.inputs["review"] and field.size > 20
    assert field.labels == () or (
        len(field.labels) == field.size and list(field.labels)[-1] == learnt["entries"][-1]
    )
    assert len(data.train) == 400 and next(data.val.batches(8))["review"].shape[0] == 8


@pytest.mark.parametrize("name", OPTIONS)
def test_held_out_texts_are_not_learnt_from(name):
    if name == "subwords":
        pytest.importorskip("tokenizers")
    first = sample(made(name, size=300))
    poisoned = replace(
        first, dev=dict(first.dev), preprocessors={"review": (made(name, size=300),)}
    )
    poisoned.dev["review"] = first.dev["review"].copy()
    poisoned.dev["review"][400:] = "poison poison film Zyzzyva " * 50
    train, val = np.arange(400), np.arange(400, 600)
    if name != "subwords":  # they cut nothing before they have learned
        poisoned.preprocessors["review"][0].tokenizer(
            poisoned.dev["review"][val]
        )  # seen first: the numbers of tokens differ
    before, after = prepare(first, train, val), prepare(poisoned, train, val)
    assert (
        describe_preprocessing(before.preprocessors) == describe_preprocessing(after.preprocessors)
        and before.spec.inputs == after.spec.inputs
    )
    for one, other in zip(before.train.batches(100), after.train.batches(100), strict=True):
        assert torch.equal(one["review"].to_dense(), other["review"].to_dense())


def by_hand(text, ngrams):
    """Tokens as Keras' TextVectorization makes them: small letters, no ASCII punctuation, cut at blanks."""
    plain = "".join(
        letter for letter in text.lower() if letter not in "!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'"
    ).split()
    return [
        " ".join(plain[place : place + n]) for n in ngrams for place in range(len(plain) - n + 1)
    ]


@pytest.mark.parametrize("ngrams", [[1], [1, 2], [2], [1, 2, 3], [4]])
def test_bags_are_those_of_scikit_learn(ngrams):
    step = made("counts", ngrams=ngrams).fit(TEXTS)
    theirs = CountVectorizer(analyzer=lambda text: by_hand(text, ngrams), vocabulary=step.entries)
    counts = torch.from_numpy(theirs.transform(TEXTS).toarray()).float()
    assert set(
        CountVectorizer(analyzer=lambda text: by_hand(text, ngrams)).fit(TEXTS).vocabulary_
    ) == {*step.entries}
    assert torch.equal(dense(step(TEXTS)), counts)
    assert torch.equal(
        dense(made("multi_hot", ngrams=ngrams).fit(TEXTS)(TEXTS)), (counts > 0).float()
    )


@pytest.mark.parametrize("ngrams", [[1], [1, 2]])
@pytest.mark.parametrize("normalize", [False, True])
def test_tf_idf_is_that_of_scikit_learn(ngrams, normalize):
    step = made("tf_idf", ngrams=ngrams, idf="sklearn", normalize=normalize).fit(TEXTS)
    analyzer = lambda text: by_hand(text, ngrams)  # noqa: E731
    theirs = TfidfVectorizer(
        analyzer=analyzer, vocabulary=step.entries, norm="l2" if normalize else None
    ).fit(TEXTS)
    new = texts("great great film never seen", "a bore")
    for some in (TEXTS, new):
        assert np.allclose(dense(step(some)), theirs.transform(some).toarray(), atol=1e-6)


def test_tf_idf_of_keras_is_its_formula():
    step = made("tf_idf").fit(texts("a b", "a", "c c"))
    found = dense(step(texts("c c a")))
    weights = {
        "a": np.log(1 + 3 / (1 + 2)),
        "b": np.log(1 + 3 / (1 + 1)),
        "c": np.log(1 + 3 / (1 + 1)),
    }
    expected = [{"a": 1, "b": 0, "c": 2}[entry] * weights[entry] for entry in step.entries]
    assert np.allclose(found[0], expected, atol=1e-6)


def test_the_most_frequent_ones_are_kept_and_ties_go_by_the_alphabet():
    step = made("multi_hot", size=4).fit(texts("d c b a", "z z z", "b c", "y y"))
    assert step.entries == ("z", "b", "c", "y")
    both = made("multi_hot", size=3, ngrams=[1, 2]).fit(texts("b a b a", "q"))
    assert both.entries == ("a", "b", "b a")
    sequence = made("sequence", size=4, length=3).fit(texts("d c b a", "z z z", "b c"))
    assert sequence.labels == ("", padding.UNKNOWN_SYMBOL, "z", "b")


def test_sequences_have_padding_0_and_others_1():
    step = made("sequence", size=5, length=4, pad="back").fit(texts("a a a b b c d"))
    assert step.labels == ("", "▯", "a", "b", "c")
    assert batch(step(texts("b new a", "", "d a b c a"))).tolist() == [
        [3, 1, 2, 0],
        [0] * 4,
        [2, 3, 4, 2],
    ]


ROWS = Ragged(np.array([1, 2, 3, 4, 5, 6]), np.array([0, 1, 3, 6]))


@pytest.mark.parametrize(
    ("length", "pad", "cut", "expected"),
    [  # the examples of Keras' documentation of pad_sequences
        (3, "front", "front", [[0, 0, 1], [0, 2, 3], [4, 5, 6]]),
        (3, "back", "front", [[1, 0, 0], [2, 3, 0], [4, 5, 6]]),
        (2, "front", "front", [[0, 1], [2, 3], [5, 6]]),
        (2, "front", "back", [[0, 1], [2, 3], [4, 5]]),
        (4, "front", "back", [[0, 0, 0, 1], [0, 0, 2, 3], [0, 4, 5, 6]]),
    ],
)
def test_rows_are_filled_up_and_cut_as_keras_does(length, pad, cut, expected):
    assert batch(pad_sequences(ROWS, 7, length, pad, cut, bucket=False)).tolist() == expected


def test_the_books_words_characters_and_hashes():
    """§6.1.1: words 2 × 10 × (10 + 1), characters 2 × 50 of string.printable, the Tokenizer's 9 words, hashes."""
    words = made(
        "sequence", lower=False, punctuation="keep", length=10, pad="back", cut="back"
    ).fit(TOY)
    assert set(words.entries) == {
        "The",
        "cat",
        "sat",
        "on",
        "the",
        "mat.",
        "dog",
        "ate",
        "my",
        "homework.",
    }
    hot = torch.nn.functional.one_hot(batch(words(TOY)), 12)
    assert (
        hot.shape == (2, 10, 12) and hot[:, :, 2:].sum().item() == 11 and hot[0, 6:, 0].eq(1).all()
    )
    signs = made("characters", lower=False, length=50, pad="back").fit(TOY)
    there = [
        [signs.labels[number] for number in row if number] for row in batch(signs(TOY)).tolist()
    ]
    assert ["".join(row) for row in there] == list(TOY) and batch(signs(TOY)).shape == (2, 50)
    assert len(made("sequence", punctuation="blank").fit(TOY).entries) == 9
    hashed = made(
        "sequence", lower=False, punctuation="keep", hashed=True, size=1001, length=10, pad="back"
    ).fit(TOY)
    expected = [1 + crc32(word.encode()) % 1000 for word in TOY[0].split()]
    assert batch(hashed(TOY))[0].tolist() == [*expected, 0, 0, 0, 0]


def test_hashes_are_the_same_in_every_process():
    step = made("hashing", ngrams=[1, 2], size=97)
    here = step.fit(TEXTS)(TEXTS).columns.tolist()
    assert crc32(b"film") % 97 in made("hashing", size=97)(texts("film")).columns.tolist()
    code = "import numpy as np, sys\nfrom dlrun.data.preprocessing.text import hashing\n"
    code += "s = hashing(tokens='words', ngrams=[1, 2], lower=True, punctuation='strip', size=97, values='multi_hot')\n"
    code += f"print(s(np.array({list(TEXTS)!r}, object)).columns.tolist())"
    child = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True
    )
    assert child.stdout.strip() == str(here), child.stderr


def test_hashed_bags_need_no_vocabulary_and_lose_nothing_but_what_falls_together():
    plain, hashed = made("counts").fit(TEXTS)(TEXTS), made("hashing", values="counts")(TEXTS)
    assert dense(plain).sum(1).tolist() == dense(hashed).sum(1).tolist() and hashed.width == 4096


@pytest.mark.parametrize(
    ("punctuation", "lower", "expected"),
    [
        ("strip", True, ["dont", "stopnow", "ünder"]),
        ("blank", True, ["don't", "stop", "now", "ünder"]),
        ("keep", False, ["Don't", "stop,now!", "ÜNDER_"]),
    ],
)
def test_letters_and_punctuation(punctuation, lower, expected):
    cutter = Tokenizer("words", lower, punctuation, 10)
    assert cutter.ids_to_tokens(cutter(texts("Don't stop,now! ÜNDER_")).values.tolist()) == expected


def test_characters_beyond_ascii_and_runs_of_them():
    step = made("characters", ngrams=[2], size=50, length=None, pad="back").fit(
        texts("naïve 映画", "ve 映")
    )
    assert step.length == 7 and step.labels[2:5] == (" 映", "e ", "ve") and "映画" in step.labels
    assert batch(step(texts("映画映"))).tolist() == [[step.labels.index("映画"), 1, 0, 0, 0, 0, 0]]
    words = made("multi_hot", tokens="characters", ngrams=[3], lower=True, punctuation="keep").fit(
        texts("abcabc")
    )
    assert words.entries == ("abc", "bca", "cab")


def test_no_text_is_cut_twice(monkeypatch):
    step, seen = made("bigrams"), []
    monkeypatch.setattr(Tokenizer, "normalize", lambda self, text: seen.append(text) or text)
    rows = sample(step).dev["review"]
    for train in (rows[:200], rows[100:300], rows[:300]):
        step.fit(train)(train)
    assert len(seen) == len(set(rows[:300]))


def test_subwords_are_learnt_and_the_same_each_time():
    pytest.importorskip("tokenizers")
    rows = texts(*["lower lowest newer newest wider widest low new wide"] * 5)
    first, again = (made("subwords", size=40, length=12).fit(rows) for _ in range(2))
    assert (
        first.state() == again.state() and "▁low" in first.labels and "est" in "".join(first.labels)
    )
    pieces = [
        first.labels[number] for number in batch(first(texts("newest low")))[0].tolist() if number
    ]
    assert "".join(pieces).replace("▁", " ").strip() == "newest low"


def test_without_the_library_subwords_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "dlrun.data.preprocessing.subword_tokenizer", raising=False)
    monkeypatch.delattr("dlrun.data.preprocessing.subword_tokenizer", raising=False)
    with pytest.raises(
        UserError, match=r"needs the library tokenizers .*pip install 'dlrun\[subwords\]'"
    ):
        made("subwords").fit(TOY)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("multi_hot", {"ngrams": []}, r"ngrams=\[\]: say how many tokens"),
        ("sequence", {"ngrams": [1, 2]}, "in a sequence one token follows another"),
        (
            "sequence",
            {"size": 2},
            "size=2: 0 is padding and 1 any other token; it must be 3 or more",
        ),
    ],
)
def test_settings_that_make_no_sense(name, changes, message):
    with pytest.raises(UserError, match=message):
        made(name, **changes)


@pytest.mark.parametrize("name", ["multi_hot", "tf_idf", "sequence"])
def test_training_texts_without_any_token_are_refused(name):
    with pytest.raises(UserError, match="none of the 2 training texts has words"):
        made(name).fit(texts("", "?!"))
    with pytest.raises(UserError, match="has 3 words in turn"):
        made(name, ngrams=[3]).fit(texts("two words", "one"))


def table(bucket, rows=500):
    """Sequences of very different lengths, row i of which begins with the number i + 1."""
    lengths = np.random.RandomState(1).geometric(0.02, rows)
    values = np.repeat(np.arange(1, rows + 1), lengths)
    lists = Ragged(values, np.cumsum([0, *lengths]))
    return Table({"x": pad_sequences(lists, rows + 1, 200, "front", "front", bucket=bucket)})


def epoch(of, seed=3, number=1, size=16):
    return [one["x"] for one in of.batches(size, seed=seed, epoch=number)]


def test_bucketed_epochs_have_every_row_once_in_an_order_of_seed_and_epoch():
    rows = [numbers[:, -1].tolist() for numbers in epoch(table(True))]
    assert sorted(sum(rows, [])) == list(range(1, 501))
    again, later, other = (
        [numbers[:, -1].tolist() for numbers in epoch(table(True), *which)]
        for which in ((3, 1), (3, 2), (4, 1))
    )
    assert rows == again and rows != later and rows != other
    started = list(table(True).batches(16, seed=3, epoch=1, start=7))
    assert [one["x"][:, -1].tolist() for one in started] == rows[7:]


def test_bucketing_saves_most_of_the_padding():
    there = int((torch.cat(epoch(table(False))) != 0).sum())
    cells = [sum(numbers.numel() for numbers in epoch(table(bucket))) for bucket in (False, True)]
    assert (cells[1] - there) < 0.15 * (cells[0] - there)


@pytest.mark.parametrize("pad", ["front", "back"])
def test_batches_of_different_width_are_the_wide_ones_without_their_padding(pad):
    lists = Ragged(np.arange(1, 11), np.array([0, 1, 3, 6, 10]))
    wide, tight = (
        pad_sequences(lists, 11, 6, pad, "front", bucket=bucket) for bucket in (False, True)
    )
    assert isinstance(wide, SequenceColumn) and wide.shape == (6,) and tight.shape == ()
    for one, other in zip(wide.batches(slice(None), 2), tight.batches(slice(None), 2), strict=True):
        width = other.shape[1]
        assert torch.equal(one[:, -width:] if pad == "front" else one[:, :width], other)
        assert not (one[:, :-width] if pad == "front" else one[:, width:]).any()


def test_bags_are_bags_that_the_engine_takes():
    found = made("bigrams").fit(TEXTS)(TEXTS)
    assert (
        isinstance(found, SparseCounts)
        and found.columns.dtype == torch.int32
        and found.values.dtype == torch.float32
    )
    one = next(Table({"x": found}).batches(4))["x"]
    assert one.layout == torch.sparse_csr and torch.equal(one.to_dense(), dense(found)[:4])
