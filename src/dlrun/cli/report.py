"""`dlrun report`: one page for a run, in its folder, or one that compares several runs."""

from __future__ import annotations

from pathlib import Path

from dlrun.core.errors import FileWriteError, UserError
from dlrun.core.run_folder import RunFolder


def report_command(words: list[str]) -> int:
    """Write report.html and report.md anew, print their paths, and with --open show the page.

    For several runs, report-A-B.html and report-A-B.md are written into the current folder, or into
    that of to=FOLDER.

    Args:
        words: Run folders and flags.

    Returns:
        The exit code.

    Raises:
        UserError: For a folder that is not a run.
    """
    output_folders = [word.removeprefix("to=") for word in words if word.startswith("to=")]
    runs = [Path(word) for word in words if not word.startswith(("-", "to="))]
    unknown = [word for word in words if word.startswith("-") and word != "--open"]
    if unknown:
        raise UserError(f"no flag {unknown[0]}: dlrun report RUN [RUN…] [to=FOLDER] [--open]")
    if output_folders and len(runs) == 1:
        raise UserError("to= is for a page of several runs; that of one lies in its folder")
    if not runs:
        raise UserError(
            "report of which run? dlrun report RUN [RUN…] [--open], such as outputs/imdb/dense/…"
        )
    from dlrun.core.files import check_links_inside

    # Before the first page is written: every folder must be a run, with no link out of it.
    for run in runs:
        RunFolder(run).read_config()
        check_links_inside(run)
    page = write_report_pages(runs, Path(output_folders[-1] if output_folders else "."))
    if "--open" in words:
        open_in_browser(page)
    return 0


def write_report_pages(runs: list[Path], to: Path = Path()) -> Path:
    """Write the pages and print their paths.

    Args:
        runs: The run folders.
        to: The folder for the page of several runs.

    Returns:
        The HTML page.

    Raises:
        UserError: Where the pages cannot be written.
    """
    from dlrun.report.build import write_comparison, write_report

    try:
        files = write_report(runs[0]) if len(runs) == 1 else write_comparison(runs, to)
    except FileWriteError:  # it says what and where by itself
        raise
    except OSError as error:
        folder = runs[0] if len(runs) == 1 else to
        raise UserError(
            f"cannot write the report into {folder}: {error.strerror or error}"
        ) from error
    for file in files:
        # Plots that are written along are not listed.
        if file.suffix in (".html", ".md"):
            print(file)
    return files[-1]


def open_in_browser(page: Path) -> None:
    """Open a page in the system's browser."""
    # Only --open needs it.
    import webbrowser

    if not webbrowser.open(page.absolute().as_uri()):
        print(f"no browser could be started; open {page} in one")
