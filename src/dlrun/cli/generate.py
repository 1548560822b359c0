"""`dlrun generate RUN`: what a finished run makes, as text on the terminal and as files in the run folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dlrun.cli.run_argument import opened
from dlrun.config.arguments import arguments
from dlrun.config.constraints import FARTHEST
from dlrun.core.errors import Refused
from dlrun.launch.run_config import named_plugins

if TYPE_CHECKING:
    from dlrun.core.artifacts import Artifact


OWN = ("kind", "to", "seed", "fit")  # words of every kind


def generate(words: list[str]) -> int:
    """Make what the words ask for: `kind=` one of the run's kinds (its first where none is said), and its arguments.

    Text streams to the terminal. Files go to RUN/generated, or to=FOLDER, and overwrite nothing; the report is written
    anew. Answers with the exit code. Raises Refused for words that make no sense, naming those that do.
    """
    folder, _, rest = opened(words, "generate")
    plugins = named_plugins(rest)
    said = dict(read_word(word) for word in rest if not word.startswith("plugins="))
    to = said.pop("to", "")
    place = Path(to) if to else folder / "generated"
    for file in made(folder, plugins, said, place):
        print(file)
    if not to:
        from dlrun.cli.report import written

        written([folder])
    return 0


def read_word(word: str) -> tuple[str, str]:
    """Key and value, letter by letter. Raises Refused for a word that is none."""
    key, equals, value = word.partition("=")
    if not equals or not key.isidentifier():
        raise Refused(f"'{word}' is no setting: dlrun generate RUN kind=… key=value …")
    return key, value


def made(folder: Path, plugins: tuple[str, ...], said: dict[str, str], place: Path) -> list[Path]:
    """Make it from the run's best weights; answers with the files that were written. said: key → value of the words."""
    from dlrun.core import artifacts
    from dlrun.experiment.inference import again
    from dlrun.training import generation

    kind, seed, name = (said.pop(word, "") for word in ("kind", "seed", "fit"))
    assembly, fit = again(folder, plugins, name)
    kinds = list(getattr(fit.trainer.objective, "makes", {}))
    if not kinds:
        raise Refused(f"{folder} predicts and makes nothing: dlrun predict answers for new rows")
    maker = generation.maker(fit.trainer.objective, kind or kinds[0])
    number, chosen = whole_number("seed", seed or "0"), arguments(said, maker, OWN, kind or kinds[0])
    make_place(place)
    if assembly.raw.note:
        print(assembly.raw.note)
    found = generation.made(fit.trainer, kind or kinds[0], number, **chosen)
    return artifacts.write(streamed(found), place, free(place, kind or kinds[0]))


def make_place(place: Path) -> None:
    """Make the folder for what will be made. Raises Refused where that cannot be."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"to={place}: no folder can be made there ({error.strerror})") from error


def whole_number(name: str, text: str) -> int:
    """The number in a word. Raises Refused."""
    try:
        if abs(number := int(text)) <= FARTHEST:
            return number
    except ValueError:
        pass
    raise Refused(f"{name}={text}: it must be a whole number of at most 63 bits")


def streamed(found: Iterator[Artifact]) -> Iterator[Artifact]:
    """The same artifacts; text is shown as it comes, and of pictures what they are about."""
    from dlrun.core.artifacts import Writing

    for artifact in found:
        said = (artifact.text, "") if isinstance(artifact, Writing) else (artifact.about, "\n")
        print(said[0], end=said[1], flush=True)
        yield artifact


def free(place: Path, kind: str) -> str:
    """'kind-1', or with the first number that no file there has yet."""
    taken = {file.stem for file in place.glob(f"{kind}-*")}
    return next(name for number in range(1, 10**6) if (name := f"{kind}-{number}") not in taken)
