"""`dlrun completion`: the shells' scripts, and the words that TAB offers. Nothing heavy: a TAB must be quick."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from dlrun.config.command_names import COMMANDS
from dlrun.config.groups import find_option_file, get_conf_folders, list_all_groups
from dlrun.core.errors import UserError

RUN_COMMANDS = (
    "resume",
    "rerun",
    "evaluate",
    "compare",
    "visualize",
    "predict",
    "generate",
    "neighbours",
)
FLAGS = ("--help", "--version", "-m", "--cfg")
OVERRIDING_GROUPS = (
    "preset",
    "experiment",
    "task",
)  # strongest first; each may override the option of another group
MAX_DEPTH = 4

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
    """The text of `dlrun completion bash|zsh|fish`; each script asks `dlrun complete WORDS… LAST` back."""
    if not words or words[0] not in SCRIPTS:
        asked = f"no completion for '{words[0]}'." if words else "completion for which shell?"
        raise UserError(f"{asked} There are: {', '.join(SCRIPTS)}")
    return SCRIPTS[words[0]].rstrip("\n")


def complete_command_line(words: list[str], last: str, folders: Sequence[Path] = ()) -> list[str]:
    """What the word that is being typed (`last`) may become, after the finished `words` that follow `dlrun`."""
    places = get_conf_folders(folders)
    found = list_all_groups(places)
    command = words[0] if words and words[0] in COMMANDS else ""
    if command == "visualize" and len(words) > 1:
        offers = complete_visualize(last)
    elif command == "neighbours" and len(words) > 1:
        offers = ["count=", "input="]
    elif command in RUN_COMMANDS:
        offers = complete_run_folders(last)
    elif command == "ls":
        offers = list(found)
    elif command == "completion":
        offers = list(SCRIPTS)
    elif "=" in last:
        offers = _complete_options(last, found)
    else:
        mark = last[: len(last) - len(last.lstrip("+~"))]
        offers = [mark + name for name in _complete_names(words, last[len(mark) :], found, places)]
        offers += [] if words or mark else list(COMMANDS)
        offers += FLAGS if last.startswith("-") else ()
    return [offer for offer in offers if offer.startswith(last)]


def complete_visualize(last: str) -> list[str]:
    """The settings of `dlrun visualize`, and the kinds of pictures that it draws."""
    from dlrun.cli.visualize import KINDS, SETTINGS

    if last.startswith("kind="):
        before = last[: len(last) - len(re.split(r"[,\[=]", last)[-1])]
        return [before + kind for kind in (*KINDS, "all")]
    return [f"{name}=" for name in SETTINGS]


def complete_run_folders(last: str = "", top: Path = Path("outputs")) -> list[str]:
    """Run folders under outputs/, the newest first; where none fits, the folders that go on from `last`."""
    found = []
    for folder, inside, files in os.walk(top):
        if "config.yaml" in files:
            found.append((os.path.getmtime(os.path.join(folder, "config.yaml")), folder))
        if "config.yaml" in files or folder.count(os.sep) >= MAX_DEPTH:
            inside.clear()
    runs = [folder for _, folder in sorted(found, reverse=True) if folder.startswith(last)]
    parent = last.rpartition("/")[0] + "/" if "/" in last else ""
    if runs or not os.path.isdir(parent or "."):
        return runs
    return sorted(f"{parent}{entry.name}/" for entry in os.scandir(parent or ".") if entry.is_dir())


def get_selected_options(words: Sequence[str], group: str, places: Sequence[Path]) -> list[str]:
    """The options of a group that hold after these words: named outright, by an experiment or task, or by default."""
    named = _get_last_selection(words, group)
    if named is not None:
        return named
    stronger = (
        OVERRIDING_GROUPS[: OVERRIDING_GROUPS.index(group)]
        if group in OVERRIDING_GROUPS
        else OVERRIDING_GROUPS
    )
    for chooser in stronger:
        for option in get_selected_options(words, chooser, places):
            named = _find_in_defaults(
                _read_text(find_option_file(places, chooser, option)), group, override=True
            )
            if named is not None:
                return named
    roots = (_find_in_defaults(_read_text(place / "config.yaml"), group) for place in places)
    return next((options for options in roots if options is not None), [])


def get_option_keys(group: str, option: str, places: Sequence[Path]) -> list[str]:
    """The dotted keys of one option's YAML, and of those in its own group that it builds on."""
    import yaml

    file = find_option_file(places, group, option)
    if file is None:
        return []
    text = _read_text(file)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    node = yaml.load(text, Loader=loader) or {}
    below = [
        entry
        for entry in node.pop("defaults", [])
        if isinstance(entry, str) and entry not in ("_self_", option)
    ]
    if "@package _global_" in text:
        return []
    found = [key for entry in below for key in get_option_keys(group, entry, places)]
    return list(dict.fromkeys([*found, *_flatten_keys(node, group)]))


def _complete_names(
    words: list[str], last: str, found: dict[str, list[str]], places: list[Path]
) -> list[str]:
    """Group names and root keys; once a group's name is there, the keys of what is chosen in it."""
    group, dot, _ = last.partition(".")
    keys: list[str] = []
    if group in found:
        keys = [
            f"{key}="
            for option in get_selected_options(words, group, places)
            for key in get_option_keys(group, option, places)
        ]
    if dot:
        return keys
    return [
        *(f"{name}=" for name in found),
        *(f"{key}=" for key in _get_root_keys(places) if key not in found),
        *keys,
    ]


def _complete_options(last: str, found: dict[str, list[str]]) -> list[str]:
    """`group=option`, `group@place=option`, also after a comma or an opening bracket."""
    key, _, value = last.partition("=")
    before = last[: len(last) - len(re.split(r"[,\[]", value)[-1])]
    return [before + option for option in found.get(key.lstrip("+").partition("@")[0], [])]


def _get_last_selection(words: Sequence[str], group: str) -> list[str] | None:
    for word in reversed(words):
        key, equals, value = word.partition("=")
        if equals and key.lstrip("+") == group:
            return re.findall(r"[\w/-]+", value)
    return None


def _find_in_defaults(text: str, group: str, override: bool = False) -> list[str] | None:
    start = r"override\s+/?" if override else ""
    match = re.search(rf"^\s*-\s*{start}{group}\s*:\s*([^#\n]*)", text, re.MULTILINE)
    if match is None:
        return None
    return [name for name in re.findall(r"[\w/-]+", match[1]) if name != "null"]


def _get_root_keys(places: list[Path]) -> list[str]:
    return re.findall(
        r"^([a-z]\w*):",
        _read_text(places[-1] / "config.yaml").replace("defaults:", ""),
        re.MULTILINE,
    )


def _read_text(file: Path | None) -> str:
    return file.read_text(encoding="utf-8") if file is not None and file.is_file() else ""


def _flatten_keys(node: object, prefix: str) -> list[str]:
    if not isinstance(node, dict) or not node:
        return [prefix]
    named = [(key, value) for key, value in node.items() if not str(key).startswith("_")]
    return [name for key, value in named for name in _flatten_keys(value, f"{prefix}.{key}")]
