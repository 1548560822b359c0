"""Texts that go on: windows are views that no split shares, vocabularies are learned, scores are what they say."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratory import node

from dlrun.config.compatibility import ACCEPTS, ANSWERS, get_input_error
from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError
from dlrun.core.types import Field, FitJob, Spec
from dlrun.data.display import describe_raw_row
from dlrun.data.preprocessing import language
from dlrun.data.preprocessing.language import TokenEncoder, index_tokens, join_tokens, tokenize
from dlrun.data.preprocessing.pipeline import prepare, transform_rows
from dlrun.data.text.corpus import INPUT, TARGET, WindowConfig, build_corpus_dataset
from dlrun.evaluation.metrics import bits, compute_mean_score, perplexity
from dlrun.evaluation.protocols.plans import holdout, kfold, walk_forward
from dlrun.models.bigram import smooth_counts
from dlrun.objectives.losses import auto

TEXT = "what is done out of love always takes place beyond good and evil. " * 12
BOTH = ("every", "next")
MODELS = ("language_lstm", "language_gru", "language_transformer")


def raw_of(text=TEXT, predict="every", test=0.0, **changes):
    usual = {"unit": "character", "length": 12, "step": None, "lower": True, "vocabulary": None}
    return build_corpus_dataset(text, WindowConfig(predict, **{**usual, **changes}), test)


def split(raw, validation=0.25):
    return holdout(validation=validation, by="auto").split_rows(raw, FitJob(), 0)


def places(raw, rows, name=INPUT):
    """The places of the text that these rows see, and those that they are asked about."""
    first, length = raw.dev[INPUT].first[rows], len(raw.dev[INPUT].offsets)
    return set((first[:, None] + np.arange(length)).ravel()), set(
        (first[:, None] + 1 + np.arange(length)).ravel()
    )


def test_a_window_is_followed_by_what_follows_it_in_the_text():
    for predict in BOTH:
        raw = raw_of(predict=predict, step=5)
        data = prepare(raw, np.arange(len(raw)), None)
        words, batch = data.preprocessors[INPUT][0], next(data.train.batches(7))
        for row in range(7):
            start = 5 * row
            assert "".join(words.decode(batch[INPUT][row].tolist())) == TEXT[start : start + 12]
            after = batch[TARGET][row].reshape(-1).tolist()
            told = TEXT[start + 1 : start + 13] if predict == "every" else TEXT[start + 12]
            assert "".join(words.decode(after)) == told


def test_the_books_windows():
    raw = raw_of("a" * 301 + "b" * 299, "next", length=60)
    assert (
        len(raw) == len(range(0, 600 - 60, 3)) and raw.dev[INPUT].first[1] == 3
    )  # maxlen 60, step 3
    assert list(raw_of(length=20).dev[INPUT].first[:3]) == [0, 20, 40]


def test_windows_are_views():
    raw = raw_of(step=1)
    data = prepare(raw, np.arange(len(raw)), None)
    for name in (INPUT, TARGET):
        column = data.train.columns[name]
        assert column.values.shape == (len(TEXT),) and column.values.dtype == torch.int32
        assert raw.dev[name].values is raw.dev[INPUT].values
    assert next(data.train.batches(4))[INPUT].dtype == torch.int64


@pytest.mark.parametrize("predict", BOTH)
@pytest.mark.parametrize("step", [1, 5, None])
def test_no_window_reaches_across_a_split(predict, step):
    raw = raw_of(predict=predict, step=step)
    for train, val in [
        split(raw),
        *(
            walk_forward(folds=3, gap=0, size=None).split_rows(raw, FitJob(fold=f), 0)
            for f in (0, 2)
        ),
    ]:
        (seen, asked), (shown_later, asked_later) = places(raw, train), places(raw, val)
        assert not (seen | asked) & (shown_later | asked_later) and max(seen) < min(shown_later)
        lost = min(shown_later) - max(asked) - 1
        assert lost <= raw.dev[INPUT].first[1]  # no more is left out than it takes


def test_neighboring_windows_are_not_dealt_out_at_random():
    raw = raw_of()
    for plan in (holdout(validation=0.2, by="random"), kfold(folds=3, by="auto", shuffle=True)):
        with pytest.raises(UserError, match="neighboring windows of a text share their values"):
            plan.split_rows(raw, FitJob(folds=3), 0)


def test_the_end_of_the_text_is_sealed():
    raw = raw_of(test=0.2)
    kept = len(TEXT) - round(0.2 * len(TEXT))
    assert len(raw.dev[INPUT].values) == kept and len(raw.test()[INPUT].values) == len(TEXT) - kept
    joined_again = [
        raw.read_vocabulary()[number]
        for part in (raw.dev, raw.test())
        for number in part[INPUT].values
    ]
    assert "".join(joined_again) == TEXT


@pytest.mark.parametrize("predict", BOTH)
def test_held_out_rows_change_nothing_that_is_learnt(predict):
    """Poison: whatever stands in the held-out part, vocabulary and prior are the same, and strange tokens unknown."""
    poisoned = TEXT[:600] + "ZQ☃" * ((len(TEXT) - 600) // 3)
    found = []
    for text in (TEXT, poisoned):
        raw = raw_of(text, predict, step=12, lower=False)
        train, val = np.arange(20), np.arange(56, len(raw))
        data = prepare(raw, train, val)
        found.append((data.preprocessors[INPUT][0].labels, data.spec.targets[TARGET].prior))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    batch = next(data.val.batches(4))
    assert (batch[INPUT] == 1).all() and (batch[TARGET] == 1).all()
    assert (next(data.train.batches(20))[INPUT] > 1).all()


def test_the_prior_is_how_often_a_token_comes_next():
    for predict in BOTH:
        raw = raw_of(predict=predict, step=4)
        data = prepare(raw, np.arange(len(raw)), None)
        target = torch.cat([batch[TARGET].flatten() for batch in data.train.batches(50)])
        field = data.spec.targets[TARGET]
        assert torch.allclose(
            field.prior, torch.bincount(target, minlength=field.size) / len(target)
        )


def test_rare_words_are_one_unknown_word():
    text = "the cat sat on the mat . the dog sat on the cat ! " * 8 + "once "
    whole = prepare(raw_of(text, unit="word", length=4), np.arange(20), None).preprocessors[INPUT][
        0
    ]
    assert "once" not in whole.entries and "dog" in whole.entries
    raw = raw_of(text, unit="word", length=4, vocabulary=3)
    data = prepare(raw, np.arange(len(raw)), None)
    assert (
        data.preprocessors[INPUT][0].entries == ("the", "cat", "on")
        and data.spec.inputs[INPUT].size == 5
    )
    assert data.spec.targets[TARGET].prior[1] > 0.3 and data.spec.targets[TARGET].prior[0] == 0
    assert data.preprocessors[INPUT][0].encode("The CAT purrs") == ([2, 3], ["purrs"])


def test_words_can_be_joined_again():
    text = 'Truth is a woman--what then? (It\'s "so".)\n\nAn ill-bred $5, isn’t it…'
    again = join_tokens(tokenize(text, "word"), "word")
    assert (
        tokenize(again, "word") == tokenize(text, "word")
        and "then? (It's" in again
        and "\n\nAn ill-bred" in again
    )
    for unit in ("word", "character"):
        values, names = index_tokens(text, unit)
        assert [names[number] for number in values] == tokenize(text, unit)
    assert join_tokens(tokenize(text, "character"), "character") == text


def test_a_row_is_shown_as_text():
    raw = raw_of()
    assert describe_raw_row(raw, raw.dev, 2)["text"] == TEXT[24:36]


@pytest.mark.parametrize("predict", BOTH)
def test_perplexity_and_bits_are_the_loss_in_other_words(predict):
    raw = raw_of(predict=predict)
    data = prepare(raw, *split(raw))
    field, batch = data.spec.targets[TARGET], next(data.val.batches(100))
    logits = torch.randn(len(batch[INPUT]), *field.output_shape)
    loss = float(auto(field)(logits, batch[TARGET]))
    for metric, expected in (
        (perplexity(field), math.exp(loss)),
        (bits(field), loss / math.log(2)),
    ):
        values = metric.per_row(logits, batch[TARGET])
        assert values.shape == (len(batch[INPUT]),)
        score = compute_mean_score(
            float(values.sum()), float(values.square().sum()), len(values), metric.finish
        )
        assert score.value == pytest.approx(expected, rel=1e-5)
        enough = len(values) >= 20
        assert score.low < score.value < score.high if enough else score.low is None
    assert (
        perplexity(field).finish(1e6) < math.inf
    )  # a loss that has exploded is told, and does not stop the run


def test_the_constant_answer_is_the_unigrams_entropy():
    raw = raw_of()
    data = prepare(raw, np.arange(len(raw)), None)
    field = data.spec.targets[TARGET]
    model, batch = (
        build_part(node("model", "constant"), data.spec),
        next(data.train.batches(len(raw))),
    )
    prior = field.prior[field.prior > 0]
    entropy = float(-(prior * prior.log()).sum())
    assert float(auto(field)(model(batch)[TARGET], batch[TARGET])) == pytest.approx(
        entropy, rel=1e-5
    )
    assert model(batch)[TARGET].shape == (len(raw), 12, field.size)


@pytest.mark.parametrize("predict", BOTH)
def test_a_bigram_counts_the_training_pairs_and_is_never_out_of_words(predict):
    raw = raw_of(TEXT + "w", predict, step=1)
    data = prepare(raw, np.arange(len(raw)), None)
    model = build_part(node("model", "bigram"), data.spec)
    model.solve(data.train)
    shares = model.table.exp()
    assert torch.allclose(shares.sum(1), torch.ones(len(shares)), atol=1e-5) and (shares > 0).all()
    words = data.preprocessors[INPUT][0]
    (v,), (e,), (space,) = (words.encode(letter)[0] for letter in "ve ")
    followed = [TEXT[place + 1] for place in range(len(TEXT) - 1) if TEXT[place] == "v"]
    assert float(shares[v, e]) == pytest.approx(followed.count("e") / len(followed), abs=0.1)
    assert float(shares[v, e]) > 0.4 > 0.1 > float(shares[v, space])
    sparse = raw_of(TEXT + "w", predict, step=12)
    again = build_part(node("model", "bigram"), data.spec)
    again.solve(prepare(sparse, np.arange(len(sparse)), None).train)
    assert torch.equal(again.table, model.table)  # a place counts once, whatever windows see it
    batch = next(data.train.batches(30))
    loss = auto(data.spec.targets[TARGET])(model(batch)[TARGET], batch[TARGET])
    assert float(model.row_cross_entropy(batch).mean()) == pytest.approx(float(loss), rel=1e-4)


def test_unseen_pairs_share_what_the_seen_ones_leave():
    pairs = torch.tensor([[0.0, 6.0, 2.0], [4.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    shares = smooth_counts(pairs)
    alone = (pairs.sum(0) + 1) / (pairs.sum() + 3)
    assert torch.allclose(shares[0], (pairs[0] + 2 * alone) / 10) and torch.allclose(
        shares[2], alone
    )


def spec_of(length=9, size=11):
    field = Field("tokens", (length,), size, prior=torch.ones(size) / size)
    return Spec({INPUT: field}, {TARGET: field})


@pytest.mark.parametrize("name", MODELS)
def test_no_place_sees_a_later_one(name):
    spec = spec_of()
    torch.manual_seed(0)
    model = build_part(node("model", name, dropout=0.0), spec).eval()
    tokens = torch.randint(2, 11, (3, 9))
    with torch.no_grad():
        before = model({INPUT: tokens})[TARGET]
        for place in range(9):
            changed = tokens.clone()
            changed[:, place:] = (changed[:, place:] - 1) % 9 + 2
            after = model({INPUT: changed})[TARGET]
            assert torch.allclose(before[:, :place], after[:, :place], atol=1e-5)
            assert not torch.allclose(before[:, place], after[:, place], atol=1e-3)
            shorter = model({INPUT: tokens[:, : place + 1]})[TARGET]
            assert torch.allclose(shorter, before[:, : place + 1], atol=1e-5)


@pytest.mark.parametrize("name", MODELS[:2])
@pytest.mark.parametrize("units", [16, [12, 8]])
def test_a_carried_state_is_the_whole_text_read_again(name, units):
    torch.manual_seed(0)
    model = build_part(node("model", name, units=units), spec_of()).eval()
    tokens, states = torch.randint(2, 11, (2, 9)), None
    with torch.no_grad():
        whole = model({INPUT: tokens})[TARGET]
        for low, high in ((0, 4), (4, 5), (5, 9)):
            logits, states = model.read_tokens(tokens[:, low:high], states)
            assert torch.allclose(logits, whole[:, high - 1], atol=1e-5)


def test_who_answers_at_each_place_and_who_does_not():
    assert set(ANSWERS) <= set(ACCEPTS)
    tokens = {INPUT: "tokens"}
    assert "language_lstm" in get_input_error(node("model", "lstm"), tokens, {TARGET: "tokens"})
    assert "data.predict=every" in get_input_error(
        node("model", "language_gru"), tokens, {TARGET: "category"}
    )
    assert get_input_error(node("model", "language_gru"), tokens, {TARGET: "tokens"}) is None
    assert get_input_error(node("model", "lstm"), tokens, {TARGET: "category"}) is None
    with pytest.raises(UserError, match="reads one text"):
        build_part(
            node("model", "language_lstm"), Spec(spec_of().inputs, {"y": Field("binary", (1,))})
        )
    with pytest.raises(UserError, match="cannot be shared out"):
        build_part(node("model", "language_transformer", embedding=30), spec_of())
    with pytest.raises(UserError, match="too many pairs"):
        build_part(node("model", "bigram"), spec_of(size=20_000))


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "book.txt"
    file.write_bytes("Söhne\r\nund Väter ".encode("latin-1") * 40)
    raw = build_part(node("data", "text_file", path=str(file), encoding="latin-1", length=10))
    assert (
        "".join(raw.read_vocabulary()[number] for number in raw.dev[INPUT].values[:8])
        == "Söhne\nun"
    )
    for content, said in (
        (b"  \n", "no text in it"),
        (b"short", "use a longer text"),
        (b"\xff\xfe\xfa" * 99, "UTF-8"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=said):
            build_part(node("data", "text_file", path=str(file)))
    with pytest.raises(UserError, match="cannot be read"):
        build_part(node("data", "text_file", path=str(tmp_path / "none.txt")))


def test_without_a_file_it_is_pythons_manual():
    raw = build_part(node("data", "text_file"))
    assert len(raw.dev[INPUT].values) > 300_000 and raw.note == ""
    assert "assert" in "".join(
        raw.read_vocabulary()[number] for number in raw.dev[INPUT].values[:300]
    )


def test_the_official_texts():
    root = Path(os.environ.get("DLRUN_DATA", ""))
    if not (root / "nietzsche" / "nietzsche.txt").is_file():
        pytest.skip("no official texts here")
    raw = build_part(
        node("data", "nietzsche", source="official", predict="next", length=60, step=3)
    )
    assert len(raw.dev[INPUT].values) == 600_893 and len(raw.words()) == 57 and len(raw) == 200_278
    raw = build_part(node("data", "shakespeare", source="official"))
    assert len(raw.dev[INPUT].values) == 1_115_394 and len(raw.words()) == 65


def test_rows_of_other_texts_are_read_with_what_was_learnt():
    raw, other = raw_of(), raw_of(TEXT.replace("love", "LÖVE"), lower=False)
    data = prepare(raw, np.arange(len(raw)), None)
    names = {name: (TokenEncoder("character", True, other.read_vocabulary(), None, entries=data.preprocessors[INPUT][0].entries),) for name in
             (INPUT, TARGET)}  # fmt: skip
    found = next(
        transform_rows(
            other, data.__class__(data.spec, data.train, None, names), other.dev
        ).batches(3)
    )
    assert (found[INPUT] == 1).sum() == sum(
        letter in "LÖVE" for letter in TEXT.replace("love", "LÖVE")[:36]
    )


def test_visible_labels_tell_blanks():
    words = prepare(raw_of("a b\n" * 40), np.arange(4), None).preprocessors[INPUT][0]
    assert (
        set(words.labels) == {"", "▯", "a", "b", "␣", "⏎"} and language.VISIBLE_SYMBOLS[" "] == "␣"
    )
