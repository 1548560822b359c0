"""`dlrun report`: one page for a run, in its folder, or one that compares several, in the current folder or `to=`."""

from __future__ import annotations

from pathlib import Path

from dlrun.core.errors import FileWriteError, UserError


def report_command(words: list[str]) -> int:
    """Write report.html and report.md anew, say where they are, and with --open show the page in a browser.

    Of several runs: report-A-B.html and report-A-B.md, in the current folder or in that of to=FOLDER. Raises UserError
    for a folder that is no run.
    """
    named = [word.removeprefix("to=") for word in words if word.startswith("to=")]
    runs = [Path(word) for word in words if not word.startswith(("-", "to="))]
    unknown = [word for word in words if word.startswith("-") and word != "--open"]
    if unknown:
        raise UserError(f"no flag {unknown[0]}: dlrun report RUN [RUN…] [to=FOLDER] [--open]")
    if named and len(runs) == 1:
        raise UserError("to= is for a page of several runs; that of one lies in its folder")
    if not runs:
        raise UserError(
            "report of which run? dlrun report RUN [RUN…] [--open], such as outputs/imdb/dense/…"
        )
    from dlrun.core import stored_files
    from dlrun.core.files import check_links_inside

    for run in runs:
        stored_files.load_run_config(run)
        check_links_inside(run)
    page = write_report_pages(runs, Path(named[-1] if named else "."))
    if "--open" in words:
        open_in_browser(page)
    return 0


def write_report_pages(runs: list[Path], to: Path = Path()) -> Path:
    """Write the pages, print their paths, and answer with the HTML one. Raises UserError where that is not allowed.

    to: the folder for the page of several runs.
    """
    from dlrun.report.build import write_comparison, write_report

    try:
        made = write_report(runs[0]) if len(runs) == 1 else write_comparison(runs, to)
    except FileWriteError:  # it says what and where by itself
        raise
    except OSError as error:
        place = runs[0] if len(runs) == 1 else to
        raise UserError(
            f"cannot write the report into {place}: {error.strerror or error}"
        ) from error
    for file in made:
        if file.suffix in (".html", ".md"):
            print(file)
    return made[-1]


def open_in_browser(page: Path) -> None:
    """Open a page in the browser of this system."""
    import webbrowser

    if not webbrowser.open(page.absolute().as_uri()):
        print(f"no browser could be started; open {page} in one")
