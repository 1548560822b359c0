"""The text of `dlrun --help`: one screen, made from the file names of the conf folders."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from dlrun.places import all_folders, all_groups

COLUMNS, LINES = 80, 24
COMMANDS = {
    "workflow": "the book's seven steps, from data to tuned model",
    "final": "test a workflow's winner, once",
    "explain": "layers, memory and first loss, untrained",
    "show": "a sheet of training pictures, augmented",
    "lr": "a learning rate to use, from a range test",
    "resume": "go on with a cut run, or train it longer",
    "rerun": "the same run again, in a new folder",
    "evaluate": "measure a finished run",
    "predict": "answers for your own pictures, texts, rows",
    "generate": "texts or pictures that a run makes",
    "neighbours": "words whose vectors are like a word's",
    "compare": "runs side by side, and whether they differ",
    "report": "one page of a run, or of several",
    "visualize": "a look inside an image model",
    "ledger": "which test rows have been opened",
    "ls": "what there is to choose from",
    "completion": "TAB for bash, zsh or fish",
}
ARGUMENTS = {
    "workflow": "[key=value]…",
    "final": "RUN",
    "explain": "[key=value]…",
    "show": "[key=value]…",
    "lr": "[key=value]…",
    "resume": "RUN",
    "rerun": "RUN",
    "evaluate": "RUN",
    "predict": "RUN FILE… [to=…]",
    "generate": "RUN [kind=…]",
    "neighbours": "RUN WORD…",
    "compare": "RUN…",
    "report": "RUN…",
    "visualize": "RUN [kind=…]",
    "ledger": "[TASK]",
    "ls": "[GROUP [OPTION]]",
    "completion": "SHELL",
}
KEYS = ("engine.epochs=5", "optimizer=adam", "protocol=kfold", "seed=1", "preset=smoke")


def help_text(folders: Sequence[Path] = ()) -> str:
    """At most 24 lines of 80 columns. folders: the user's conf folders, strongest first."""
    found = all_groups(all_folders(folders))
    lines = ["dlrun: run a deep-learning experiment and keep all of it in one folder"]
    lines += ["dlrun [key=value]…              train; a sweep: dlrun -m task=imdb seed=1,2"]
    commands = [f"dlrun {name} {ARGUMENTS[name]}" for name in COMMANDS]
    lines += [f"{call:<32}{text}" for call, text in zip(commands, COMMANDS.values(), strict=True)]
    lines += ["help of one: dlrun COMMAND --help; of training and its flags: dlrun train --help"]
    lines += [*_names("task=", found.get("task", []), 2), *_names("model=", found.get("model", []), 1)]
    lines += _names("keys", list(KEYS), 3, "  ")
    return "\n".join(lines[:LINES])


def _names(head: str, names: list[str], most: int, between: str = " ") -> list[str]:
    """Names in a hanging paragraph of at most `most` lines; what does not fit is told to be there."""
    rest = f"… (all: dlrun ls {head.strip('=')})"
    text = between.join(names) or "none"
    wrapper = textwrap.TextWrapper(COLUMNS, initial_indent=f"{head:<8}", subsequent_indent=" " * 8, max_lines=most)
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    wrapper.placeholder = f" {rest}"
    return wrapper.wrap(text)
