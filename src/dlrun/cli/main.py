"""The door: words on the command line → one command. Nothing heavy is imported before it is known to be needed."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from dlrun.core.errors import Refused, Unwritable, cut, in_one_line


def entry() -> None:
    """What the `dlrun` command calls.

    Python's search for garbage goes through all that torch and scikit-learn bring, again and again while they are
    imported: at its usual rate that took .45 of the 2.3 seconds of CPU up to the first step of a small table.
    """
    gc.set_threshold(50_000, 20, 100)
    sys.exit(main(sys.argv[1:]))


def main(words: list[str]) -> int:
    """Run one command; answer with its exit code.

    0 done · 1 something failed · 2 asked for something that makes no sense · 3 the loss became nan or infinite ·
    130 Ctrl-C · 143 SIGTERM.
    """
    try:
        return _among_others(words) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else run(words)
    except Refused as error:
        return refused(str(error))
    except Unwritable as error:
        print(f"dlrun: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dlrun: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if (text := in_one_line(error)) is None:
            raise
        return refused(text)


def refused(text: str) -> int:
    """Print why nothing is done, a line a reason, words without end shortened; answers with the exit code."""
    short = re.sub(r"[^\s'\"=,]{400,}", lambda word: cut(word[0], 120), text)
    print(f"dlrun: {short}".replace("\n", "\ndlrun: "), file=sys.stderr)
    return 2


def _among_others(words: list[str]) -> int:
    from dlrun.launch.rank_worker import together

    return together(words, run)


def run(words: list[str]) -> int:
    """Find the command that these words name."""
    if words[:1] == ["help"] or {"-h", "--help"} & set(words):
        return _help([word for word in words if word not in ("help", "-h", "--help")])
    if words[:1] == ["--version"]:
        from dlrun import __version__

        print(f"dlrun {__version__}")
        return 0
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    return _train(words)


def _help(words: list[str]) -> int:
    from dlrun.cli.help import help_text
    from dlrun.cli.usage import ABOUT, usage

    print(usage(words[0]) if words and words[0] in ABOUT else help_text())
    return 0


def _ls(words: list[str]) -> int:
    from dlrun.cli.list import listing
    from dlrun.config.overrides import user_folders

    folders, rest = user_folders(words)
    print(listing(rest, folders))
    return 0


def _compare(words: list[str]) -> int:
    from rich.console import Console

    from dlrun.cli.compare import comparison

    Console(highlight=False).print(comparison([Path(word) for word in words]))
    return 0


def _completion(words: list[str]) -> int:
    from dlrun.cli.completion import completion

    print(completion(words))
    return 0


def _complete(words: list[str]) -> int:
    from dlrun.cli.completion import complete
    from dlrun.config.overrides import user_folders

    folders, rest = user_folders(words[:-1])
    print("\n".join(complete(rest, words[-1] if words else "", folders)))
    return 0


def _resume(words: list[str]) -> int:
    from dlrun.cli.resume import resume

    return resume(words)


def _rerun(words: list[str]) -> int:
    from dlrun.cli.resume import rerun

    return rerun(words)


def _evaluate(words: list[str]) -> int:
    from dlrun.cli.resume import evaluate

    return evaluate(words)


def _predict(words: list[str]) -> int:
    from dlrun.cli.predict import predict

    return predict(words)


def _generate(words: list[str]) -> int:
    from dlrun.cli.generate import generate

    return generate(words)


def _neighbours(words: list[str]) -> int:
    from dlrun.cli.neighbours import neighbours

    return neighbours(words)


def _train(words: list[str]) -> int:
    from dlrun.cli.train import train

    return train(words)


def _workflow(words: list[str]) -> int:
    from dlrun.cli.workflow import workflow

    return workflow(words)


def _final(words: list[str]) -> int:
    from dlrun.cli.workflow import final

    return final(words)


def _ledger(words: list[str]) -> int:
    from dlrun.cli.ledger import ledger

    return ledger(words)


def _explain(words: list[str]) -> int:
    from dlrun.cli.explain import explain

    return explain(words)


def _show(words: list[str]) -> int:
    from dlrun.cli.show import show

    return show(words)


def _lr(words: list[str]) -> int:
    from dlrun.cli.lr_finder import lr

    return lr(words)


def _report(words: list[str]) -> int:
    from dlrun.cli.report import report

    return report(words)


def _visualize(words: list[str]) -> int:
    from dlrun.cli.visualize import visualize

    return visualize(words)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "workflow": _workflow,
    "final": _final,
    "explain": _explain,
    "show": _show,
    "lr": _lr,
    "report": _report,
    "visualize": _visualize,
    "ledger": _ledger,
    "ls": _ls,
    "compare": _compare,
    "completion": _completion,
    "complete": _complete,
    "resume": _resume,
    "rerun": _rerun,
    "evaluate": _evaluate,
    "predict": _predict,
    "generate": _generate,
    "neighbours": _neighbours,
}
