"""`dlrun generate RUN`: what a finished run makes, as text on the terminal and as files in the run folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.cli.run_argument import parse_run_argument
from dlrun.config.arguments import parse_arguments
from dlrun.config.constraints import MAX_INTEGER
from dlrun.core.errors import UserError
from dlrun.launch.run_config import load_plugin_packages

if TYPE_CHECKING:
    from dlrun.core.artifacts import Artifact


COMMAND_KEYS = ("kind", "to", "seed", "fit")  # words of every kind


def generate_command(words: list[str]) -> int:
    """Make what the words ask for: `kind=` one of the run's kinds (its first where none is said), and its arguments.

    Text streams to the terminal. Files go to RUN/generated, or to=FOLDER, and overwrite nothing; the report is written
    anew. Answers with the exit code. Raises UserError for words that make no sense, naming those that do.
    """
    folder, _, rest = parse_run_argument(words, "generate")
    plugins = load_plugin_packages(rest)
    said = dict(parse_generate_argument(word) for word in rest if not word.startswith("plugins="))
    to = said.pop("to", "")
    place = Path(to) if to else folder / "generated"
    for file in write_generated_files(folder, plugins, said, place):
        print(file)
    if not to:
        from dlrun.cli.report import write_report_pages

        write_report_pages([folder])
    return 0


def parse_generate_argument(word: str) -> tuple[str, str]:
    """Key and value, letter by letter. Raises UserError for a word that is none."""
    key, equals, value = word.partition("=")
    if not equals or not key.isidentifier():
        raise UserError(f"'{word}' is no setting: dlrun generate RUN kind=… key=value …")
    return key, value


def write_generated_files(
    folder: Path, plugins: tuple[str, ...], said: dict[str, str], place: Path
) -> list[Path]:
    """Make it from the run's best weights; answers with the files that were written. said: key → value of the words."""
    from dlrun.core import artifacts
    from dlrun.experiment.inference import load_fit
    from dlrun.training import generation

    kind, seed, name = (said.pop(word, "") for word in ("kind", "seed", "fit"))
    assembly, fit = load_fit(folder, plugins, name)
    kinds = list(fit.trainer.objective.generators)
    if not kinds:
        raise UserError(f"{folder} predicts and makes nothing: dlrun predict answers for new rows")
    maker = generation.find_generator(fit.trainer.objective, kind or kinds[0])
    number, chosen = (
        parse_integer("seed", seed or "0"),
        parse_arguments(said, maker, COMMAND_KEYS, kind or kinds[0]),
    )
    make_output_folder(place)
    if assembly.dataset.note:
        print(assembly.dataset.note)
    found = generation.generate_artifacts(fit.trainer, kind or kinds[0], number, **chosen)
    return artifacts.write_artifacts(
        print_while_streaming(found), place, get_unused_name(place, kind or kinds[0])
    )


def make_output_folder(place: Path) -> None:
    """Make the folder for what will be made. Raises UserError where that cannot be."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"to={place}: no folder can be made there ({error.strerror})") from error


def parse_integer(name: str, text: str) -> int:
    """The number in a word. Raises UserError."""
    try:
        if abs(number := int(text)) <= MAX_INTEGER:
            return number
    except ValueError:
        pass
    raise UserError(f"{name}={text}: it must be a whole number of at most 63 bits")


def print_while_streaming(found: Iterator[Artifact]) -> Iterator[Artifact]:
    """The same artifacts; text is shown as it comes, and of pictures what they are about."""
    from dlrun.core.artifacts import TextSample

    for artifact in found:
        said = (
            (artifact.text, "")
            if isinstance(artifact, TextSample)
            else (artifact.description, "\n")
        )
        print(said[0], end=said[1], flush=True)
        yield artifact


def get_unused_name(place: Path, kind: str) -> str:
    """'kind-1', or with the first number that no file there has yet."""
    taken = {file.stem for file in place.glob(f"{kind}-*")}
    return next(name for number in range(1, 10**6) if (name := f"{kind}-{number}") not in taken)
