"""What a language model writes: temperature, top_k and top_p, prompts, and a state that is carried along."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from laboratory import node
from test_language_model import TEXT, raw_of

from dlrun.cli.main import main
from dlrun.config.instantiate import build_part
from dlrun.core.errors import UserError
from dlrun.core.objective import ObjectiveContext
from dlrun.data.preprocessing.pipeline import prepare
from dlrun.data.text.corpus import INPUT, TARGET
from dlrun.models.language.language_model import token_probabilities
from dlrun.objectives.language_model import SlidingContextModel, language
from dlrun.objectives.losses import auto
from dlrun.objectives.supervised import Supervised

LENGTH = 40


def entropy(shares):
    return float(-(shares * shares.clamp_min(1e-12).log()).sum())


def test_entropy_rises_with_temperature():
    torch.manual_seed(0)
    for _ in range(10):
        logits = 3 * torch.randn(30)
        found = [
            entropy(token_probabilities(logits, heat))
            for heat in (0, 0.1, 0.2, 0.5, 1.0, 1.2, 5.0, 1000.0)
        ]
        assert (
            found == sorted(found)
            and found[0] < 1e-6
            and found[-1] == pytest.approx(math.log(28), abs=1e-3)
        )


def test_it_is_the_books_sampling():
    """log p / T, exponentiated and renormalized (book §8.1), without padding and the unknown token."""
    torch.manual_seed(0)
    logits = torch.randn(20)
    p = logits.softmax(-1)[2:].double().numpy()
    for heat in (0.2, 0.5, 1.0, 1.2):
        powers = np.exp(np.log(p) / heat)
        found = token_probabilities(logits, heat)
        assert (
            np.allclose(found[2:], powers / powers.sum(), atol=1e-6) and float(found[:2].sum()) == 0
        )


def test_top_k_and_top_p_leave_the_likeliest():
    logits = torch.tensor([9.0, 9.0, *torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()])
    assert torch.allclose(
        token_probabilities(logits, 1.0, top_k=2)[2:], torch.tensor([0.625, 0.375, 0, 0]).double()
    )
    assert torch.equal(token_probabilities(logits, 7.0, top_k=1), token_probabilities(logits, 0.0))
    assert token_probabilities(logits, 0.0).tolist() == [0, 0, 1, 0, 0, 0]
    assert (token_probabilities(logits, 1.0, top_p=0.8) > 0).sum() == 2 and (
        token_probabilities(logits, 1.0, top_p=0.81) > 0
    ).sum() == 3
    assert (token_probabilities(logits, 1.0, top_p=0.0) > 0).sum() == 1 and (
        token_probabilities(logits, 1.0, top_p=1.0) > 0
    ).sum() == 4
    assert (token_probabilities(logits, 1.0, top_k=3, top_p=0.5) > 0).sum() == 1


def written_by(model="language_lstm", predict="every", **changes):
    raw = raw_of(predict=predict)
    data = prepare(raw, np.arange(len(raw)), None)
    torch.manual_seed(0)
    built = build_part(node("model", model, **changes), data.spec)
    losses = {TARGET: auto(data.spec.targets[TARGET])}
    objective = build_part(
        node("objective", "language"), ObjectiveContext(built, data, raw, losses)
    ).eval()

    def write(seed=1, **arguments):
        torch.manual_seed(seed)
        with torch.no_grad():
            return "".join(piece.text for piece in objective.generators["text"](**arguments))

    return write, objective, data


def parts(text):
    """The prompt, and temperature → what was written at it."""
    first, *others = re.split(r"\n--- temperature (\S+) ---\n", text)
    return first, dict(zip(others[::2], others[1::2], strict=True))


def test_it_writes_as_much_as_is_asked_at_each_temperature():
    write, _, _ = written_by(units=8)
    first, found = parts(write(prompt="Love is", temperature=[0.2, 1.0, 1.2], length=LENGTH))
    assert first == "love is\n" and list(found) == ["0.2", "1", "1.2"]
    assert all(
        len(text) == LENGTH + 1 and text.endswith("\n") and set(text) <= set(TEXT) | {"\n"}
        for text in found.values()
    )
    assert write(length=LENGTH) == write(length=LENGTH) != write(seed=2, length=LENGTH)
    assert (
        list(parts(write())[1]) == ["0.5", "1"] and len(parts(write())[1]["1"]) == 201
    )  # as the objective says


def test_without_a_prompt_it_begins_with_a_passage_of_the_training_text():
    write, _, _ = written_by(units=8)
    passages = {parts(write(seed=seed, length=1))[0].removesuffix("\n") for seed in range(8)}
    assert len(passages) > 3 and all(len(each) == 12 and each in TEXT for each in passages)


def test_strange_characters_are_left_out_and_told():
    write, _, _ = written_by(units=8)
    text = write(prompt="lo☃ve☃!", length=3, temperature=[1.0])
    assert text.startswith("(left out, for the training text has none: '☃' '!')\nlove\n")
    assert parts(write(prompt="☃", length=3))[0].count("\n") == 2  # and goes on with a passage


@pytest.mark.parametrize("units", [9, [7, 6]])
def test_a_carried_state_writes_what_reading_all_again_would(units):
    """Token by token the same shares, however long the text has become."""
    _, objective, data = written_by(units=units)
    model, length = objective.model, 50
    again = SlidingContextModel(model, (INPUT, TARGET), length)
    torch.manual_seed(3)
    tokens = torch.randint(2, data.spec.inputs[INPUT].size, (1, length))
    carried = reread = None
    with torch.no_grad():
        for place in range(length):
            one = tokens[:, place : place + 1]
            logits, carried = model.read_tokens(one, carried)
            others, reread = again(one, reread)
            assert torch.allclose(logits, others, atol=1e-5)
    assert reread.shape == (1, length)


def test_a_model_without_a_state_reads_its_window():
    _, objective, data = written_by("language_transformer", embedding=8, heads=2, blocks=1, dense=8)
    again = SlidingContextModel(objective.model, (INPUT, TARGET), 12)
    tokens = torch.randint(2, data.spec.inputs[INPUT].size, (1, 30))
    with torch.no_grad():
        whole, window = again(tokens[:, :20], None)
        assert torch.equal(window, tokens[:, 8:20])
        assert torch.allclose(whole, objective.model({INPUT: window})[TARGET][:, -1])


def test_the_books_model_always_reads_a_whole_window():
    """It has learned nothing of shorter ones: what is missing in front is of the training text, and that is told."""
    reader = node(
        "encoder", "embedding", units=4, ends="flatten"
    )  # which cannot read a shorter one
    write, objective, _ = written_by("combined", "next", encoder=reader)
    seen = []
    objective.model.register_forward_pre_hook(
        lambda module, given: seen.append(given[0][INPUT].shape)
    )
    text = write(prompt="love", length=5, temperature=[1.0])
    assert text.startswith("(before it, the model reads 8 tokens of the training text)\nlove\n")
    assert set(seen) == {(1, 12)} and len(seen) == 6
    assert "(" not in write(prompt="out of love always takes", length=2)


def test_words_are_written_with_blanks_between():
    raw = raw_of("the cat, sat. the dog (a cat) ran.\n" * 40, unit="word", length=6)
    data = prepare(raw, np.arange(len(raw)), None)
    built = build_part(node("model", "language_gru", units=8), data.spec)
    objective = language(ObjectiveContext(built, data, raw, {}), length=60, temperature=[1.0])
    with torch.no_grad():
        text = parts(
            "".join(piece.text for piece in objective.generators["text"](prompt="the cat"))
        )[1]["1"]
    assert not re.search(r" [,.)]|\( | \n|\n ", text) and re.search(r"[a-z] [a-z]", text)


def test_it_is_composed_of_what_predicts_and_refuses_what_is_no_text():
    _, objective, data = written_by(units=8)
    assert (
        type(objective) is Supervised
        and objective.default_samples == ("text",)
        and list(objective.generators) == ["text"]
    )
    raw = build_part(node("data", "wine", test=0.2))
    with pytest.raises(UserError, match="task=nietzsche, task=shakespeare or task=text_file"):
        prepared = prepare(raw, np.arange(50), None)
        language(ObjectiveContext(objective.model, prepared, raw, {}), length=5, temperature=[])


def test_a_bigram_stands_beside_the_result(tmp_path):
    words = [
        "task=nietzsche",
        "model.units=8",
        "data.length=40",
        "protocol.validation=.1",
        "preset=smoke",
    ]
    assert main([*words, f"output={tmp_path}"]) == 0
    (folder,) = (tmp_path / "nietzsche").glob("*/*")
    (result,) = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    value, low, high = (result["scores"]["bits_bigram"][part] for part in ("value", "low", "high"))
    assert low < value < high and value < result["baseline"]["bits"]["value"]
    scores = {name: score["value"] for name, score in result["scores"].items()}
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]), rel=1e-4)
    assert scores["bits"] == pytest.approx(scores["loss"] / math.log(2), rel=1e-4)
    assert main(["task=nietzsche", "model=bigram", "protocol.validation=.1", "preset=smoke", "data.length=40",
                 f"output={tmp_path / 'bigram'}"]) == 0  # fmt: skip
    (file,) = (tmp_path / "bigram").rglob("results.jsonl")
    counted = json.loads(file.read_text())["scores"]["bits"]["value"]
    assert counted == pytest.approx(value, rel=1e-6)
