"""`dlrun --help` and `dlrun COMMAND --help`: one short screen each; imports no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from dlrun.config.command_names import COMMANDS
from dlrun.config.parts import get_conf_folders, list_all_groups

COLUMNS, LINES = 80, 24
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
    "neighbors": "RUN WORD…",
    "compare": "RUN…",
    "report": "RUN…",
    "visualize": "RUN [kind=…]",
    "ledger": "[TASK]",
    "ls": "[GROUP [OPTION]]",
    "completion": "SHELL",
}
KEYS = ("engine.epochs=5", "optimizer=adam", "protocol=kfold", "seed=1", "preset=smoke")


def format_help(folders: Sequence[Path] = ()) -> str:
    """Format the help, in at most 24 lines of 80 columns.

    Args:
        folders: The user's config folders, strongest first.
    """
    groups = list_all_groups(get_conf_folders(folders))
    lines = ["dlrun: run a deep-learning experiment and keep all of it in one folder"]
    lines += ["dlrun [key=value]…              train; a sweep: dlrun -m task=imdb seed=1,2"]
    commands = [f"dlrun {name} {ARGUMENTS[name]}" for name in COMMANDS]
    lines += [f"{call:<32}{text}" for call, text in zip(commands, COMMANDS.values(), strict=True)]
    lines += ["help of one: dlrun COMMAND --help; of training and its flags: dlrun train --help"]
    lines += [
        *_format_names("task=", groups.get("task", []), 2),
        *_format_names("model=", groups.get("model", []), 1),
    ]
    lines += _format_names("keys", list(KEYS), 3, "  ")
    # One screen, whatever the user's own folders add.
    return "\n".join(lines[:LINES])


def _format_names(head: str, names: list[str], max_lines: int, separator: str = " ") -> list[str]:
    """Format names as a paragraph with a hanging indent; says where more are listed."""
    more = f"… (all: dlrun ls {head.strip('=')})"
    text = separator.join(names) or "none"
    wrapper = textwrap.TextWrapper(
        COLUMNS, initial_indent=f"{head:<8}", subsequent_indent=" " * 8, max_lines=max_lines
    )
    # A name that is cut could not be typed.
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    wrapper.placeholder = f" {more}"
    return wrapper.wrap(text)


CONFIG_HELP = """
GROUP=NAME           a part: task=imdb model=dense; all of them: dlrun ls
KEY=VALUE            a setting: model.units=[32]; all: dlrun ls model dense
+callback=NAME       adds a callback to the default ones
plugins=[PACKAGE]    your own packages in the working folder, for _target_
--config-dir DIR     your own YAML files; ./conf is found by itself"""
RUN_HELP = """
RUN                  a run folder: outputs/TASK/MODEL/TIME"""
PLUGINS_HELP = """
plugins=[PACKAGE]    your own packages that the run was made with"""
FIT_HELP = """
fit=NAME             which of several fits, such as fold-2"""
REASON_HELP = """
reason="…"           why test rows are scored that have been scored before"""
TEST_HELP = """
test=true            score the test rows, too; entered in the ledger"""

# Command → its arguments. "\n" opens each text, so that texts can be joined.
ARGUMENT_HELP = {
    "train": f"""{CONFIG_HELP}{TEST_HELP}{REASON_HELP}
-m                   a sweep: values with commas between them, one run each
sweep.jobs=2         worker processes; also sweep.limit, trials, retry, fresh,
                     zip, prune: dlrun ls sweep grid
space=NAME           a search space of a sweep
--cfg job            print the whole config, and stop
--version            print dlrun's version""",
    "workflow": f"""{CONFIG_HELP}
workflow=quick       what is tried: dlrun ls workflow default
workflow.budget=5m   how long it may train, or how many fits""",
    "final": RUN_HELP + REASON_HELP + PLUGINS_HELP,
    "explain": CONFIG_HELP,
    "show": f"""{CONFIG_HELP}
to=FILE.png          the file that is written""",
    "lr": f"""{CONFIG_HELP}
low=1e-7 high=10     the range of rates that is tested
steps=100            in so many steps""",
    "resume": f"""{RUN_HELP}
KEY=VALUE            a setting to go on with, such as engine.epochs=200"""
    + REASON_HELP
    + PLUGINS_HELP,
    "rerun": RUN_HELP + CONFIG_HELP,
    "evaluate": f"""{RUN_HELP}
checkpoint=best      or last{TEST_HELP}{REASON_HELP}{PLUGINS_HELP}""",
    "predict": f"""{RUN_HELP}
FILE…                images, folders, texts, or a CSV file of rows
to=FILE.csv          or .json: where the predictions are written
encoding=NAME        of the files, where that is another than the run's{FIT_HELP}{PLUGINS_HELP}""",
    "generate": f"""{RUN_HELP}
kind=NAME            what is made; a wrong name lists what there is
KEY=VALUE            a setting of that kind; a wrong name lists them
to=FOLDER            where it is written; RUN/generated without it
seed=N               of what is drawn{FIT_HELP}{PLUGINS_HELP}""",
    "neighbors": f"""{RUN_HELP}
WORD…                words that the run knows
count=10             neighbors of each
input=NAME           which input, where there are several{FIT_HELP}{PLUGINS_HELP}""",
    "compare": """
RUN…                 run folders; a sweep's folder stands for its jobs""",
    "report": """
RUN…                 run folders; of several one page that compares them
to=FOLDER            where that page is written (the current folder)
--open               open the page in a browser""",
    "visualize": f"""{RUN_HELP}
kind=NAME            activations, heatmap, saliency, filters, weights, or all
layer=NAME           of which layer; also class=, target=, input=
image=FILE           of which image; row=N for one of the data
steps=40 rate=1      of filters: gradient ascent; also size=, count={FIT_HELP}{PLUGINS_HELP}""",
    "ledger": """
TASK                 one task; all without it""",
    "ls": """
GROUP…               the options of groups; without it all groups
GROUP OPTION         the settings of an option: values, and what they accept
--config-dir DIR     your own YAML files""",
    "completion": """
SHELL                bash, zsh or fish""",
}
EXAMPLES = {
    "train": (
        "dlrun task=imdb model=dense",
        "dlrun -m task=wine model=linear,dense optimizer.lr=0.1,0.01",
    ),
    "workflow": (
        "dlrun workflow task=imdb",
        "dlrun workflow task=csv data.path=houses.csv data.target=price",
    ),
    "final": ("dlrun final outputs/imdb/workflow/TIME", 'dlrun final RUN reason="a second look"'),
    "explain": ("dlrun explain task=mnist model=convnet", "dlrun explain task=imdb"),
    "show": (
        "dlrun show task=cats_dogs augment=[book]",
        "dlrun show task=mnist augment=[flip] to=sheet.png",
    ),
    "lr": ("dlrun lr task=imdb", "dlrun lr task=digits model=dense high=1"),
    "resume": ("dlrun resume outputs/imdb/dense/TIME", "dlrun resume RUN engine.epochs=200"),
    "rerun": ("dlrun rerun outputs/imdb/dense/TIME", "dlrun rerun RUN model=linear seed=1"),
    "evaluate": ("dlrun evaluate outputs/imdb/dense/TIME", "dlrun evaluate RUN test=true"),
    "predict": (
        "dlrun predict RUN photo.jpg folder/ to=predictions.csv",
        "dlrun predict RUN rows.csv",
    ),
    "generate": ("dlrun generate RUN", 'dlrun generate RUN prompt="once" temperature=0.5,1.0'),
    "neighbors": ("dlrun neighbors RUN good", "dlrun neighbors RUN good bad count=5"),
    "compare": ("dlrun compare RUN RUN", "dlrun compare outputs/*/*/*"),
    "report": ("dlrun report RUN --open", "dlrun report RUN RUN"),
    "visualize": ("dlrun visualize RUN", "dlrun visualize RUN kind=heatmap image=cat.jpg"),
    "ledger": ("dlrun ledger", "dlrun ledger imdb"),
    "ls": ("dlrun ls models", "dlrun ls model dense"),
    "completion": ("source <(dlrun completion bash)", "dlrun completion fish | source"),
}


def format_usage(command: str) -> str:
    """Format the help of one command: how it is called, its arguments, two examples."""
    call = "dlrun [key=value]…"
    if command in ARGUMENTS:
        call = f"dlrun {command} {ARGUMENTS[command]}"
    purpose = COMMANDS.get(command, "train a model and keep all of it in one folder")
    arguments = [f"  {line}" for line in ARGUMENT_HELP[command].strip("\n").splitlines()]
    examples = [f"  {line}" for line in EXAMPLES[command]]
    return "\n".join([f"{call}: {purpose}", "", *arguments, "", "examples:", *examples])
