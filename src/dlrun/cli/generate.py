"""`dlrun generate RUN`: text on the terminal and files in the run folder, from a finished run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.cli.run_argument import parse_run_argument
from dlrun.config.annotations import MAX_INTEGER
from dlrun.config.arguments import parse_arguments
from dlrun.core.errors import UserError
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.launch.run_config import load_plugin_packages

if TYPE_CHECKING:
    from dlrun.core.objective import Artifact


COMMAND_KEYS = ("kind", "to", "seed", "fit")  # words of every kind


def generate_command(words: list[str]) -> int:
    """Generate what the words ask for: `kind=` one of the run's kinds, by default its first.

    Text is streamed to the terminal. Files go to RUN/generated, or to=FOLDER, and overwrite
    nothing; the report is written anew.

    Args:
        words: The run folder, and key=value arguments.

    Returns:
        The exit code.

    Raises:
        UserError: For unknown arguments, with those that exist.
    """
    folder, _, overrides = parse_run_argument(words, "generate")
    plugins = load_plugin_packages(overrides)
    arguments = dict(
        parse_generate_argument(word) for word in overrides if not word.startswith("plugins=")
    )
    to = arguments.pop("to", "")
    output = Path(to) if to else RunFolder(folder).path(RunFile.GENERATED)
    for file in write_generated_files(folder, plugins, arguments, output):
        print(file)
    # Only files inside the run folder belong to its report.
    if not to:
        from dlrun.cli.report import write_report_pages

        write_report_pages([folder])
    return 0


def parse_generate_argument(word: str) -> tuple[str, str]:
    """Split an argument into key and value.

    Raises:
        UserError: Where it is no such pair.
    """
    key, equals, value = word.partition("=")
    if not equals or not key.isidentifier():
        raise UserError(f"'{word}' is no setting: dlrun generate RUN kind=… key=value …")
    return key, value


def write_generated_files(
    folder: Path, plugins: tuple[str, ...], arguments: dict[str, str], output: Path
) -> list[Path]:
    """Generate from the run's best weights.

    Args:
        folder: The run folder.
        plugins: Packages that the config may instantiate.
        arguments: Key → value, as typed.
        output: The folder for the files.

    Returns:
        The files that were written.
    """
    from dlrun.core import objective
    from dlrun.experiment.inference import load_fit
    from dlrun.training import generation

    kind, seed, name = (arguments.pop(word, "") for word in ("kind", "seed", "fit"))
    builder, fit = load_fit(folder, plugins, name)
    kinds = list(fit.trainer.objective.generators)
    if not kinds:
        raise UserError(f"{folder} predicts and generates nothing: dlrun predict takes new rows")
    generator = generation.find_generator(fit.trainer.objective, kind or kinds[0])
    seed_number = parse_integer("seed", seed or "0")
    options = parse_arguments(arguments, generator, COMMAND_KEYS, kind or kinds[0])
    make_output_folder(output)
    # SYNTHETIC stands before anything that is generated.
    if builder.dataset.note:
        print(builder.dataset.note)
    artifacts_made = generation.generate_artifacts(
        fit.trainer, kind or kinds[0], seed_number, **options
    )
    return objective.write_artifacts(
        print_while_streaming(artifacts_made), output, get_unused_name(output, kind or kinds[0])
    )


def make_output_folder(output: Path) -> None:
    """Create the folder for the files.

    Raises:
        UserError: Where that is not possible.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"to={output}: no folder can be made there ({error.strerror})") from error


def parse_integer(name: str, text: str) -> int:
    """Parse the value of a setting as an integer.

    Raises:
        UserError: Where it is none, or has more than 63 bits.
    """
    try:
        if abs(number := int(text)) <= MAX_INTEGER:
            return number
    except ValueError:
        pass
    raise UserError(f"{name}={text}: it must be a whole number of at most 63 bits")


def print_while_streaming(artifacts_made: Iterator[Artifact]) -> Iterator[Artifact]:
    """Pass artifacts on, printing text as it comes, and the descriptions of images."""
    from dlrun.core.objective import TextSample

    for artifact in artifacts_made:
        if isinstance(artifact, TextSample):
            print(artifact.text, end="", flush=True)
        else:
            print(artifact.description, flush=True)
        yield artifact


def get_unused_name(output: Path, kind: str) -> str:
    """Return 'kind-1', or the first number that no file in the folder has."""
    # Whatever the suffix: one name stands for all files of a call.
    used = {file.stem for file in output.glob(f"{kind}-*")}
    return next(name for number in range(1, 10**6) if (name := f"{kind}-{number}") not in used)
