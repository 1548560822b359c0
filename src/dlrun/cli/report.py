"""`dlrun report`: one page for a run, in its folder, or one that compares several, in the current folder or `to=`."""

from __future__ import annotations

from pathlib import Path

from dlrun.core.errors import Refused, Unwritable


def report(words: list[str]) -> int:
    """Write report.html and report.md anew, say where they are, and with --open show the page in a browser.

    Of several runs: report-A-B.html and report-A-B.md, in the current folder or in that of to=FOLDER. Raises Refused
    for a folder that is no run.
    """
    named = [word.removeprefix("to=") for word in words if word.startswith("to=")]
    runs = [Path(word) for word in words if not word.startswith(("-", "to="))]
    unknown = [word for word in words if word.startswith("-") and word != "--open"]
    if unknown:
        raise Refused(f"no flag {unknown[0]}: dlrun report RUN [RUN…] [to=FOLDER] [--open]")
    if named and len(runs) == 1:
        raise Refused("to= is for a page of several runs; that of one lies in its folder")
    if not runs:
        raise Refused("report of which run? dlrun report RUN [RUN…] [--open], such as outputs/imdb/dense/…")
    from dlrun.core import stored_files
    from dlrun.core.files import contained

    for run in runs:
        stored_files.config(run)
        contained(run)
    page = written(runs, Path(named[-1] if named else "."))
    if "--open" in words:
        show(page)
    return 0


def written(runs: list[Path], to: Path = Path()) -> Path:
    """Write the pages, print their paths, and answer with the HTML one. Raises Refused where that is not allowed.

    to: the folder for the page of several runs.
    """
    from dlrun.report.build import write, write_comparison

    try:
        made = write(runs[0]) if len(runs) == 1 else write_comparison(runs, to)
    except Unwritable:  # it says what and where by itself
        raise
    except OSError as error:
        place = runs[0] if len(runs) == 1 else to
        raise Refused(f"cannot write the report into {place}: {error.strerror or error}") from error
    for file in made:
        if file.suffix in (".html", ".md"):
            print(file)
    return made[-1]


def show(page: Path) -> None:
    """Open a page in the browser of this system."""
    import webbrowser

    if not webbrowser.open(page.absolute().as_uri()):
        print(f"no browser could be started; open {page} in one")
