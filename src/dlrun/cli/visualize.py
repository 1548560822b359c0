"""`dlrun visualize RUN`: pictures of what a finished run's network has learnt, and of what it looks at."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.run_argument import parse_run_argument
from dlrun.cli.visualize_request import VisualizeRequest
from dlrun.config.compose import parse_override_value
from dlrun.config.constraints import COUNT, POSITIVE, Range
from dlrun.core import json_text
from dlrun.core.errors import UserError
from dlrun.launch.run_config import load_plugin_packages

if TYPE_CHECKING:
    from dlrun.cli.visualize_kinds import ImagePlot


KINDS = ("activations", "heatmap", "saliency", "filters", "weights")
LISTS = ("kind", "layer", "image", "row")
NAMES = ("class", "target", "input")
NUMBERS: dict[str, tuple[Range, Any]] = {
    "steps": (COUNT, 40),  # of gradient ascent (book §5.4)
    "rate": (POSITIVE, 1.0),  # how far a step goes, in pixel values from 0 to 255
    "size": (COUNT, 64),  # height and width of filters' pictures, where the network's own is larger
    "count": (COUNT, 64),  # filters of a layer that are shown
}
SETTINGS = (*LISTS, *NAMES, *NUMBERS)


def visualize_command(words: list[str]) -> int:
    """Draw what was asked for into RUN/visualize, and write the report anew. Answers with the exit code.

    Raises UserError for words that make no sense; of kind=all, what cannot be drawn is told and left out.
    """
    folder, _, rest = parse_run_argument(words, "visualize")
    plugins = load_plugin_packages(rest)
    fit = next((word.partition("=")[2] for word in rest if word.startswith("fit=")), "")
    asked = parse_visualize_request(
        [word for word in rest if not word.lstrip("+").startswith(("plugins=", "fit="))]
    )
    from dlrun.cli.visualize_kinds import get_plot_builder, load_network, print_progress

    look = load_network(folder, plugins, asked, fit)
    found: dict[str, list[ImagePlot]] = {}
    left_out: list[str] = []
    for kind in KINDS if "all" in asked.kinds else asked.kinds:
        print_progress(f"computing {kind} …")
        try:
            found[kind] = list(get_plot_builder(kind)(look))
        except UserError as error:
            left_out.append(f"{kind}: {error}")
            if "all" not in asked.kinds:
                raise
    if not found:
        raise UserError("\n".join(left_out))
    print_progress(f"drawing {sum(map(len, found.values()))} images …")
    for file in save_visualizations(folder, found, look.net.config, look.warning):
        print(file)
    for line in left_out:
        print(f"left out: {line}")
    from dlrun.cli.report import write_report_pages

    print_progress("writing the report …")
    write_report_pages([folder])
    return 0


def parse_visualize_request(words: Sequence[str]) -> VisualizeRequest:
    """This command's settings. Raises UserError with all that is wrong in them."""
    lists: dict[str, list[str]] = {name: [] for name in LISTS}
    rest: dict[str, Any] = dict.fromkeys(NAMES, "") | {
        name: usual for name, (_, usual) in NUMBERS.items()
    }
    faults: list[str] = []
    for word in words:
        name, _, value = word.partition("=")
        if fault := get_override_error(word):
            faults.append(fault)
        elif name in LISTS:
            lists[name] += split_list_value(value)
        else:
            rest[name] = parse_override_value(word) if name in NUMBERS else value
    if faults:
        raise UserError("\n".join(faults))
    return VisualizeRequest(
        tuple(dict.fromkeys(lists["kind"])) or ("all",), tuple(dict.fromkeys(lists["layer"])),
        tuple(map(Path, lists["image"])), tuple(map(int, lists["row"])), rest.pop("class"), **rest,
    )  # fmt: skip


def split_list_value(value: str) -> list[str]:
    """The parts of `a` or `[a, b]`, letter by letter: file names may hold anything but commas."""
    inside = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
    return [part.strip() for part in inside if part.strip()]


def get_override_error(word: str) -> str:
    """What is wrong with a word, or nothing."""
    name, equals, value = word.partition("=")
    if not equals or name not in SETTINGS:
        close = difflib.get_close_matches(name, SETTINGS, 1)
        guess = f": did you mean {close[0]}=…?" if close else "."
        return f"visualize has no setting '{name}'{guess} There are: {', '.join(SETTINGS)}"
    if name in LISTS and not split_list_value(value):
        return f"{word}: there is nothing after {name}="
    if name == "kind":
        unknown = [kind for kind in split_list_value(value) if kind not in (*KINDS, "all")]
        close = difflib.get_close_matches(unknown[0], KINDS, 1) if unknown else []
        guess = f": did you mean '{close[0]}'?" if close else "."
        return (
            f"no kind '{unknown[0]}'{guess} There are: {', '.join(KINDS)}, all" if unknown else ""
        )
    if name == "image":
        missing = [file for file in split_list_value(value) if not Path(file).is_file()]
        return f"there is no file {missing[0]}" if missing else ""
    if name == "row":
        return (
            ""
            if all(re.fullmatch(r"\d+", row) for row in split_list_value(value))
            else f"{word}: a row is a whole number"
        )
    if name in NUMBERS and not NUMBERS[name][0].contains(parse_override_value(word)):
        return f"{word}: it must be {NUMBERS[name][0].text}"
    return ""


def save_visualizations(
    folder: Path, found: Mapping[str, list[ImagePlot]], config: dict[str, Any], warning: str
) -> list[Path]:
    """Draw, and list in visualize/pictures.json what there is; what these kinds had before is taken away."""
    from dlrun.core.files import make_file_names, write_text
    from dlrun.report.interpretation import list_images

    place = folder / "visualize"
    place.mkdir(exist_ok=True)
    before = list_images(folder)
    entries = [entry for entry in before if entry["kind"] not in found]
    made: list[Path] = []
    for kind, drawings in found.items():
        numbers: dict[str, int] = {}
        named = make_file_names(dict.fromkeys(drawing.layer for drawing in drawings))
        for drawing in drawings:
            number = numbers[drawing.layer] = numbers.get(drawing.layer, 0) + 1
            name = f"{kind}-{named[drawing.layer] or 'model'}-{number}.png"
            drawing.draw(place / name, config, warning)
            made.append(place / name)
            entries.append(
                {"file": name, "kind": kind, "layer": drawing.layer, "caption": drawing.caption}
            )
    entries.sort(key=lambda entry: KINDS.index(entry["kind"]))
    write_text(place / "pictures.json", json_text.to_json(entries, 1) + "\n")
    for old in {entry["file"] for entry in before} - {entry["file"] for entry in entries}:
        (place / old).unlink(missing_ok=True)
    return made
