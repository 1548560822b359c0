"""`dlrun visualize RUN`: plots of what a finished run's network has learned and attends to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrun.cli.run_argument import parse_run_argument
from dlrun.cli.visualize_request import VisualizeRequest
from dlrun.config.annotations import COUNT, POSITIVE, Range
from dlrun.config.compose import parse_override_value
from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.launch.run_config import load_plugin_packages

if TYPE_CHECKING:
    from dlrun.cli.visualize_kinds import ImagePlot


KINDS = ("activations", "heatmap", "saliency", "filters", "weights")
LISTS = ("kind", "layer", "image", "row")
NAMES = ("class", "target", "input")
NUMBERS: dict[str, tuple[Range, Any]] = {
    "steps": (COUNT, 40),  # of gradient ascent (book §5.4)
    "rate": (POSITIVE, 1.0),  # how far a step goes, in pixel values from 0 to 255
    "size": (COUNT, 64),  # height and width of filters' images, where the network's own is larger
    "count": (COUNT, 64),  # filters of a layer that are shown
}
SETTINGS = (*LISTS, *NAMES, *NUMBERS)


def visualize_command(words: list[str]) -> int:
    """Draw plots into RUN/visualize, and write the report anew.

    With kind=all, a kind that cannot be drawn is named and left out.

    Args:
        words: The run folder, and settings.

    Returns:
        The exit code.

    Raises:
        UserError: For unknown settings, or a kind that cannot be drawn.
    """
    folder, _, overrides = parse_run_argument(words, "visualize")
    plugins = load_plugin_packages(overrides)
    fit = next((word.partition("=")[2] for word in overrides if word.startswith("fit=")), "")
    request = parse_visualize_request(
        [word for word in overrides if not word.lstrip("+").startswith(("plugins=", "fit="))]
    )
    # It imports torch: not before the settings are known to be valid.
    from dlrun.cli.visualize_kinds import get_plot_builder, print_progress
    from dlrun.cli.visualize_network import load_network

    interpretation = load_network(folder, plugins, request, fit)
    plots: dict[str, list[ImagePlot]] = {}
    skipped: list[str] = []
    for kind in KINDS if "all" in request.kinds else request.kinds:
        print_progress(f"computing {kind} …")
        try:
            plots[kind] = list(get_plot_builder(kind)(interpretation))
        except UserError as error:
            skipped.append(f"{kind}: {error}")
            # Asked for by name, a kind that cannot be drawn is an error.
            if "all" not in request.kinds:
                raise
    if not plots:
        raise UserError("\n".join(skipped))
    print_progress(f"drawing {sum(map(len, plots.values()))} images …")
    for file in save_visualizations(
        folder, plots, interpretation.net.config, interpretation.warning
    ):
        print(file)
    for line in skipped:
        print(f"left out: {line}")
    from dlrun.cli.report import write_report_pages

    print_progress("writing the report …")
    write_report_pages([folder])
    return 0


def parse_visualize_request(words: Sequence[str]) -> VisualizeRequest:
    """Parse this command's settings.

    Raises:
        UserError: With everything that is wrong in them.
    """
    lists: dict[str, list[str]] = {name: [] for name in LISTS}
    values: dict[str, Any] = dict.fromkeys(NAMES, "") | {
        name: default for name, (_, default) in NUMBERS.items()
    }
    errors: list[str] = []
    for word in words:
        name, _, value = word.partition("=")
        if error := get_override_error(word):
            errors.append(error)
        elif name in LISTS:
            lists[name] += split_list_value(value)
        else:
            values[name] = parse_override_value(word) if name in NUMBERS else value
    if errors:
        raise UserError("\n".join(errors))
    return VisualizeRequest(
        kinds=tuple(dict.fromkeys(lists["kind"])) or ("all",),
        layers=tuple(dict.fromkeys(lists["layer"])),
        images=tuple(map(Path, lists["image"])),
        rows=tuple(map(int, lists["row"])),
        label=values.pop("class"),
        **values,
    )


def split_list_value(value: str) -> list[str]:
    """Split `a` or `[a, b]` at its commas: file names may hold anything else."""
    items = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
    return [item.strip() for item in items if item.strip()]


def get_override_error(word: str) -> str:
    """Return what is wrong with a setting; "" where nothing is."""
    name, equals, value = word.partition("=")
    if not equals or name not in SETTINGS:
        matches = difflib.get_close_matches(name, SETTINGS, 1)
        hint = f": did you mean {matches[0]}=…?" if matches else "."
        return f"visualize has no setting '{name}'{hint} There are: {', '.join(SETTINGS)}"
    if name in LISTS and not split_list_value(value):
        return f"{word}: there is nothing after {name}="
    if name == "kind":
        unknown = [kind for kind in split_list_value(value) if kind not in (*KINDS, "all")]
        matches = difflib.get_close_matches(unknown[0], KINDS, 1) if unknown else []
        hint = f": did you mean '{matches[0]}'?" if matches else "."
        if not unknown:
            return ""
        return f"no kind '{unknown[0]}'{hint} There are: {', '.join(KINDS)}, all"
    if name == "image":
        missing = [file for file in split_list_value(value) if not Path(file).is_file()]
        return f"there is no file {missing[0]}" if missing else ""
    if name == "row":
        is_valid = all(re.fullmatch(r"\d+", row) for row in split_list_value(value))
        return "" if is_valid else f"{word}: a row is a whole number"
    if name in NUMBERS and not NUMBERS[name][0].contains(parse_override_value(word)):
        return f"{word}: it must be {NUMBERS[name][0].text}"
    return ""


def save_visualizations(
    folder: Path, plots: Mapping[str, list[ImagePlot]], config: dict[str, Any], warning: str
) -> list[Path]:
    """Draw the plots and list them in visualize/pictures.json; older ones of these kinds are
    removed.

    Args:
        folder: The run folder.
        plots: Kind → its plots.
        config: The config of the run.
        warning: What every plot must carry, such as SYNTHETIC.

    Returns:
        The files.
    """
    from dlrun.core.files import make_file_names
    from dlrun.report.interpretation import list_images

    run = RunFolder(folder)
    output = run.path(RunFile.VISUALIZED)
    output.mkdir(exist_ok=True)
    old_entries = list_images(folder)
    # Plots of other kinds, from earlier calls, stay.
    entries = [entry for entry in old_entries if entry["kind"] not in plots]
    files: list[Path] = []
    for kind, kind_plots in plots.items():
        numbers: dict[str, int] = {}
        stems = make_file_names(dict.fromkeys(plot.layer for plot in kind_plots))
        for plot in kind_plots:
            # Files are numbered by layer: a layer may have a plot for each image.
            number = numbers[plot.layer] = numbers.get(plot.layer, 0) + 1
            name = f"{kind}-{stems[plot.layer] or 'model'}-{number}.png"
            plot.draw(output / name, config, warning)
            files.append(output / name)
            entries.append(
                {"file": name, "kind": kind, "layer": plot.layer, "caption": plot.caption}
            )
    # In the order of KINDS, whatever the order of the calls.
    entries.sort(key=lambda entry: KINDS.index(entry["kind"]))
    run.write_json(RunFile.VISUALIZED_LIST, entries)
    # Last, so that pictures.json never lists a file that is gone.
    for stale in {entry["file"] for entry in old_entries} - {entry["file"] for entry in entries}:
        (output / stale).unlink(missing_ok=True)
    return files
