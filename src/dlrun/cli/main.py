"""The entry point: finds the command of the words, or trains; imports nothing heavy itself."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from dlrun.core.errors import FileWriteError, UserError, describe_system_error, truncate_text
from dlrun.core.renamed_parts import CURRENT_COMMANDS


def train_command(words: list[str]) -> int:
    """Train what the overrides say; with -m, every job that they say.

    Args:
        words: The words of the command line.

    Returns:
        The exit code.
    """
    from dlrun.config.compose import configure
    from dlrun.config.overrides import list_folder_flags, split_config_folders
    from dlrun.launch.run_config import load_plugin_packages, make_run_folder, start_run

    folders, overrides = split_config_folders(words)
    if "--cfg" in overrides or "--cfg=job" in overrides:
        return print_config(overrides, folders)
    if "-m" in overrides or "--multirun" in overrides:
        from dlrun.cli.sweep import sweep_command
        from dlrun.core.environment import is_rank

        # Under torchrun, every rank would start its own workers.
        if is_rank():
            raise UserError(
                "a sweep starts its processes itself: say dlrun -m … engine.devices=2, not torchrun"
            )
        return sweep_command(
            [word for word in overrides if word not in ("-m", "--multirun")],
            folders,
            list_folder_flags(words),
        )
    # Before the config is composed: a part of a plugin must be importable to be checked.
    plugins = load_plugin_packages(overrides)
    config = configure(overrides, folders, plugins)
    return start_run(config, overrides, make_run_folder(config), plugins)


def print_config(words: list[str], folders: list[Path]) -> int:
    """Print the config and stop; overrides without effect are reported on stderr."""
    import yaml

    from dlrun.config.compose import configure
    from dlrun.config.unused_settings import find_unused_settings
    from dlrun.launch.run_config import load_plugin_packages

    overrides = [
        word for word in words if word not in ("--cfg", "--cfg=job", "job", "-m", "--multirun")
    ]
    config = configure(overrides, folders, load_plugin_packages(overrides))
    print(yaml.safe_dump(config, sort_keys=False), end="")
    # On stderr: stdout holds the config alone, to be piped into a file.
    for text in find_unused_settings(config, overrides, folders):
        print(f"dlrun: {text}", file=sys.stderr)
    return 0


def entry() -> None:
    """Run the `dlrun` command and exit."""
    # The garbage collector visits all that torch and scikit-learn create, again and again while
    # they are imported: at its default rate that took 0.45 of the 2.3 seconds of CPU up to the
    # first step of a small table.
    gc.set_threshold(50_000, 20, 100)
    sys.exit(main(sys.argv[1:]))


def main(words: list[str]) -> int:
    """Run one command.

    Args:
        words: The words of the command line.

    Returns:
        The exit code: 0 done · 1 something failed · 2 refused · 3 the loss became nan or infinite ·
        130 Ctrl-C · 143 SIGTERM.
    """
    try:
        # Set by torchrun: this is one of several processes with the same command.
        if {"RANK", "WORLD_SIZE"} <= os.environ.keys():
            return _run_distributed(words)
        return run_command(words)
    except UserError as error:
        return print_user_error(str(error))
    except FileWriteError as error:
        print(f"dlrun: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dlrun: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout at exit, which would fail again: `dlrun ls | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # 128 + SIGPIPE, as a shell reports it.
        return 141
    except Exception as error:
        # A full disk or a missing permission is no bug: no traceback.
        if (text := describe_system_error(error)) is None:
            raise
        return print_user_error(text)


def print_user_error(text: str) -> int:
    """Print why nothing is done, a line a reason, with endless words shortened.

    Returns:
        The exit code.
    """
    # A pasted file or a base64 string must not fill the terminal.
    short = re.sub(r"[^\s'\"=,]{400,}", lambda word: truncate_text(word[0], 120), text)
    print(f"dlrun: {short}".replace("\n", "\ndlrun: "), file=sys.stderr)
    return 2


def _run_distributed(words: list[str]) -> int:
    from dlrun.launch.rank_worker import run_distributed

    return run_distributed(words, run_command)


def run_command(words: list[str]) -> int:
    """Run the command that these words name; without one, training."""
    if words and words[0] in CURRENT_COMMANDS:
        words = _with_current_command(words)
    # Wherever the flag stands: dlrun task=imdb --help.
    if words[:1] == ["help"] or {"-h", "--help"} & set(words):
        return _help([word for word in words if word not in ("help", "-h", "--help")])
    if words[:1] == ["--version"]:
        from dlrun import __version__

        print(f"dlrun {__version__}")
        return 0
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    return _train(words)


def _with_current_command(words: list[str]) -> list[str]:
    """The words, with what the command is called now, and a line on stderr that says so."""
    from dlrun.config.old_words import give_advice

    command = CURRENT_COMMANDS[words[0]]
    give_advice(f"dlrun {words[0]}", f"dlrun {command}")
    return [command, *words[1:]]


def _help(words: list[str]) -> int:
    from dlrun.cli.usage import ARGUMENT_HELP, format_help, format_usage

    print(format_usage(words[0]) if words and words[0] in ARGUMENT_HELP else format_help())
    return 0


def _ls(words: list[str]) -> int:
    from dlrun.cli.list import format_listing
    from dlrun.config.overrides import split_config_folders

    folders, overrides = split_config_folders(words)
    print(format_listing(overrides, folders))
    return 0


def _compare(words: list[str]) -> int:
    from rich.console import Console

    from dlrun.cli.compare import build_comparison

    Console(highlight=False).print(build_comparison([Path(word) for word in words]))
    return 0


def _completion(words: list[str]) -> int:
    from dlrun.cli.completion import get_completion_script

    print(get_completion_script(words))
    return 0


def _complete(words: list[str]) -> int:
    from dlrun.cli.completion import complete_command_line
    from dlrun.config.overrides import split_config_folders

    folders, overrides = split_config_folders(words[:-1], quiet=True)
    print("\n".join(complete_command_line(overrides, words[-1] if words else "", folders)))
    return 0


def _resume(words: list[str]) -> int:
    from dlrun.cli.resume import resume_command

    return resume_command(words)


def _rerun(words: list[str]) -> int:
    from dlrun.cli.resume import rerun_command

    return rerun_command(words)


def _evaluate(words: list[str]) -> int:
    from dlrun.cli.resume import evaluate_command

    return evaluate_command(words)


def _predict(words: list[str]) -> int:
    from dlrun.cli.predict import predict_command

    return predict_command(words)


def _generate(words: list[str]) -> int:
    from dlrun.cli.generate import generate_command

    return generate_command(words)


def _neighbors(words: list[str]) -> int:
    from dlrun.cli.neighbors import neighbors_command

    return neighbors_command(words)


def _train(words: list[str]) -> int:

    return train_command(words)


def _workflow(words: list[str]) -> int:
    from dlrun.cli.workflow import workflow_command

    return workflow_command(words)


def _final(words: list[str]) -> int:
    from dlrun.cli.workflow import final_command

    return final_command(words)


def _ledger(words: list[str]) -> int:
    from dlrun.cli.ledger import ledger_command

    return ledger_command(words)


def _explain(words: list[str]) -> int:
    from dlrun.cli.explain import explain_command

    return explain_command(words)


def _show(words: list[str]) -> int:
    from dlrun.cli.show import show_command

    return show_command(words)


def _lr(words: list[str]) -> int:
    from dlrun.cli.lr_finder import lr_command

    return lr_command(words)


def _report(words: list[str]) -> int:
    from dlrun.cli.report import report_command

    return report_command(words)


def _visualize(words: list[str]) -> int:
    from dlrun.cli.visualize import visualize_command

    return visualize_command(words)


# Each function imports its module when it is called: --help must not import torch.
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
    "neighbors": _neighbors,
}
