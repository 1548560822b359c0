"""`dlrun completion`: scripts for the shells, and the words that TAB offers.

Nothing heavy is imported: a TAB must be quick.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from dlrun.config.command_names import COMMANDS
from dlrun.config.parts import find_option_file, get_conf_folders, list_all_groups
from dlrun.core.errors import UserError

RUN_COMMANDS = (
    "resume",
    "rerun",
    "evaluate",
    "compare",
    "visualize",
    "predict",
    "generate",
    "neighbors",
)
FLAGS = ("--help", "--version", "-m", "--cfg")
# Strongest first; each may override the option of another group.
OVERRIDING_GROUPS = ("preset", "experiment", "task")
MAX_DEPTH = 4  # outputs/TASK/MODEL/TIME/JOB

BASH = r"""# eval "$(dlrun completion bash)"
_dlrun() {
    local line="${COMP_LINE:0:COMP_POINT}" last="" word
    local -a words
    read -ra words <<< "$line"
    if [[ "$line" != *[[:space:]] ]]; then
        last="${words[${#words[@]}-1]}"
        unset "words[${#words[@]}-1]"
    fi
    COMPREPLY=()
    # bash takes '=' for the end of a word and wants only what follows
    local cut=""
    [[ "$COMP_WORDBREAKS" == *=* && "$last" == *=* ]] && cut="${last%"${last##*=}"}"
    while IFS= read -r word; do
        word="${word#"$cut"}"
        case "$word" in *[=./]) ;; *) word="$word " ;; esac
        COMPREPLY+=("$word")
    done < <(dlrun complete "${words[@]:1}" "$last" 2>/dev/null)
}
complete -o nospace -F _dlrun dlrun
"""
ZSH = r"""#compdef dlrun
# eval "$(dlrun completion zsh)"
_dlrun() {
    local -a found open
    found=("${(@f)$(dlrun complete "${(@)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    open=("${(@M)found:#*[=./]}")
    found=("${(@)found:#*[=./]}")
    (( ${#open} )) && compadd -S '' -- "${(@)open:#}"
    (( ${#found} )) && compadd -- "${(@)found:#}"
}
compdef _dlrun dlrun
"""
FISH = r"""# dlrun completion fish | source
function __dlrun
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    dlrun complete $words[2..] "$last" 2>/dev/null
end
complete -c dlrun -f -a '(__dlrun)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def get_completion_script(words: Sequence[str]) -> str:
    """Return the text of `dlrun completion bash|zsh|fish`.

    Each script calls `dlrun complete WORDS… LAST` back.

    Args:
        words: The words after `dlrun completion`.

    Raises:
        UserError: For an unknown shell.
    """
    if not words or words[0] not in SCRIPTS:
        problem = f"no completion for '{words[0]}'." if words else "completion for which shell?"
        raise UserError(f"{problem} There are: {', '.join(SCRIPTS)}")
    return SCRIPTS[words[0]].rstrip("\n")


def complete_command_line(words: list[str], last: str, folders: Sequence[Path] = ()) -> list[str]:
    """Return what the word that is being typed may become.

    Args:
        words: The finished words after `dlrun`.
        last: The word that is being typed.
        folders: The user's config folders, strongest first.
    """
    conf_folders = get_conf_folders(folders)
    # From file names alone: nothing is composed.
    groups = list_all_groups(conf_folders)
    command = words[0] if words and words[0] in COMMANDS else ""
    if command == "visualize" and len(words) > 1:
        offers = complete_visualize(last)
    elif command == "neighbors" and len(words) > 1:
        offers = ["count=", "input="]
    elif command in RUN_COMMANDS:
        offers = complete_run_folders(last)
    elif command == "ls":
        offers = list(groups)
    elif command == "completion":
        offers = list(SCRIPTS)
    elif "=" in last:
        offers = _complete_options(last, groups)
    else:
        prefix = last[: len(last) - len(last.lstrip("+~"))]
        offers = [
            prefix + name
            for name in _complete_names(words, last[len(prefix) :], groups, conf_folders)
        ]
        offers += [] if words or prefix else list(COMMANDS)
        offers += FLAGS if last.startswith("-") else ()
    return [offer for offer in offers if offer.startswith(last)]


def complete_visualize(last: str) -> list[str]:
    """Complete the settings of `dlrun visualize`, and its kinds of plots."""
    from dlrun.cli.visualize import KINDS, SETTINGS

    if last.startswith("kind="):
        typed = last[: len(last) - len(re.split(r"[,\[=]", last)[-1])]
        return [typed + kind for kind in (*KINDS, "all")]
    return [f"{name}=" for name in SETTINGS]


# Typed here: completion answers a TAB key, and imports as little as it can.
RUN_CONFIG = "config.yaml"


def complete_run_folders(last: str = "", outputs: Path = Path("outputs")) -> list[str]:
    """Complete run folders under outputs/, the newest first; where none fits, any folder."""
    dated_runs = []
    for folder, subfolders, files in os.walk(outputs):
        if RUN_CONFIG in files:
            dated_runs.append((os.path.getmtime(os.path.join(folder, RUN_CONFIG)), folder))
        # Run folders hold no others; without the limit a TAB would walk through checkpoints.
        if RUN_CONFIG in files or folder.count(os.sep) >= MAX_DEPTH:
            subfolders.clear()
    runs = [folder for _, folder in sorted(dated_runs, reverse=True) if folder.startswith(last)]
    parent = last.rpartition("/")[0] + "/" if "/" in last else ""
    if runs or not os.path.isdir(parent or "."):
        return runs
    return sorted(f"{parent}{entry.name}/" for entry in os.scandir(parent or ".") if entry.is_dir())


def get_selected_options(
    words: Sequence[str], group: str, conf_folders: Sequence[Path]
) -> list[str]:
    """Return the options of a group that hold after these words.

    They are named outright, or by a preset, an experiment or a task, or are defaults.

    Args:
        words: The finished words.
        group: The group.
        conf_folders: The config folders, strongest first.
    """
    options = _get_last_selection(words, group)
    if options is not None:
        return options
    stronger: tuple[str, ...] = OVERRIDING_GROUPS
    if group in OVERRIDING_GROUPS:
        stronger = OVERRIDING_GROUPS[: OVERRIDING_GROUPS.index(group)]
    for chooser in stronger:
        for option in get_selected_options(words, chooser, conf_folders):
            text = _read_text(find_option_file(conf_folders, chooser, option))
            options = _find_in_defaults(text, group, override=True)
            if options is not None:
                return options
    roots = (_find_in_defaults(_read_text(place / "config.yaml"), group) for place in conf_folders)
    return next((choices for choices in roots if choices is not None), [])


def get_option_keys(group: str, option: str, conf_folders: Sequence[Path]) -> list[str]:
    """Return the dotted keys of one option's YAML, and of those in its group that it builds on."""
    import yaml

    file = find_option_file(conf_folders, group, option)
    if file is None:
        return []
    text = _read_text(file)
    # libyaml's loader is much faster; not every build of PyYAML has it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    node = yaml.load(text, Loader=loader) or {}
    base_options = [
        entry
        for entry in node.pop("defaults", [])
        if isinstance(entry, str) and entry not in ("_self_", option)
    ]
    # Its keys belong to other groups.
    if "@package _global_" in text:
        return []
    keys = [key for entry in base_options for key in get_option_keys(group, entry, conf_folders)]
    return list(dict.fromkeys([*keys, *_flatten_keys(node, group)]))


def _complete_names(
    words: list[str], last: str, groups: dict[str, list[str]], conf_folders: list[Path]
) -> list[str]:
    """Complete group names and root keys; after a group's name, the keys of what is chosen in
    it.
    """
    group, dot, _ = last.partition(".")
    keys: list[str] = []
    if group in groups:
        keys = [
            f"{key}="
            for option in get_selected_options(words, group, conf_folders)
            for key in get_option_keys(group, option, conf_folders)
        ]
    if dot:
        return keys
    return [
        *(f"{name}=" for name in groups),
        *(f"{key}=" for key in _get_root_keys(conf_folders) if key not in groups),
        *keys,
    ]


def _complete_options(last: str, groups: dict[str, list[str]]) -> list[str]:
    """Complete `group=option` and `group@package=option`, also after a comma or a bracket."""
    key, _, value = last.partition("=")
    typed = last[: len(last) - len(re.split(r"[,\[]", value)[-1])]
    return [typed + option for option in groups.get(key.lstrip("+").partition("@")[0], [])]


def _get_last_selection(words: Sequence[str], group: str) -> list[str] | None:
    # The last word wins, as on the command line.
    for word in reversed(words):
        key, equals, value = word.partition("=")
        if equals and key.lstrip("+") == group:
            return re.findall(r"[\w/-]+", value)
    return None


def _find_in_defaults(text: str, group: str, override: bool = False) -> list[str] | None:
    override_prefix = r"override\s+/?" if override else ""
    # Read as text: parsing every file of the defaults would make a TAB slow.
    match = re.search(rf"^\s*-\s*{override_prefix}{group}\s*:\s*([^#\n]*)", text, re.MULTILINE)
    if match is None:
        return None
    return [name for name in re.findall(r"[\w/-]+", match[1]) if name != "null"]


def _get_root_keys(conf_folders: list[Path]) -> list[str]:
    return re.findall(
        # conf_folders end with the built-in one, whose config.yaml holds all root keys.
        r"^([a-z]\w*):",
        _read_text(conf_folders[-1] / "config.yaml").replace("defaults:", ""),
        re.MULTILINE,
    )


def _read_text(file: Path | None) -> str:
    return file.read_text(encoding="utf-8") if file is not None and file.is_file() else ""


def _flatten_keys(node: object, prefix: str) -> list[str]:
    if not isinstance(node, dict) or not node:
        return [prefix]
    children = [(key, value) for key, value in node.items() if not str(key).startswith("_")]
    return [name for key, value in children for name in _flatten_keys(value, f"{prefix}.{key}")]
