"""`RunFolder` alone knows the files of a run: no other module of dlrun writes one of their names.

A name is looked for among the string constants of the source: as a whole ("config.yaml"), as the
beginning of a path ("fields/…") and, of a folder, on the right of a `/` between paths.
"""

import ast
from pathlib import Path

import pytest

from dlrun.core.files import PACKAGE
from dlrun.core.run_folder import RunFile
from dlrun.core.stored_files import SCHEMAS

OWNER = "core/run_folder.py"
# Where such a name may stand, and why.
EXCEPTIONS = {
    (
        "core/stored_files.py",
        name,
    ): "the table of what each file must hold, which the reader looks up"
    for name in {*SCHEMAS, "history.jsonl"}
} | {
    ("cli/completion.py", "config.yaml"): "a TAB key is answered with as few imports as possible",
    ("config/overrides.py", "config.yaml"): "a file of conf/, not of a run",
    ("data/shards/npz_dataset.py", "samples"): "a folder of the user's cache",
    ("models/pretrained/weights.py", "checkpoints"): "a folder of torch's cache",
}
# Without .lock, which is also the ending of other files.
FILES = {str(file) for file in RunFile if "/" not in file and "." in file[1:]}
FOLDERS = {file.partition("/")[0] for file in RunFile if "/" in file or "." not in file}


def find_names(source: str) -> set[str]:
    """The names of files and folders of a run that a module writes by hand."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            right = node.right
            if isinstance(right, ast.Constant) and right.value in FOLDERS:
                names.add(right.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            beginning, slash, _ = node.value.partition("/")
            if node.value in FILES or (slash and beginning in FOLDERS and " " not in node.value):
                names.add(node.value)
    return names


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('folder / "results.jsonl"', {"results.jsonl"}),
        ('run / "errors" / f"{job}.png"', {"errors"}),
        ('read(f"preparation/{job}.json")', {"preparation/"}),
        ('folder.glob("checkpoints/*/last.pt")', {"checkpoints/*/last.pt"}),
        ('node["errors"], "the file config.yaml is damaged"', set()),
    ],
)
def test_a_name_written_by_hand_is_seen(source, names):
    assert find_names(source) == names


def test_no_module_but_the_run_folder_names_a_file_of_a_run():
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 100 and len(FILES) > 20 and len(FOLDERS) > 8
    named = {
        (str(module.relative_to(PACKAGE)), name)
        for module in modules
        for name in find_names(Path(module).read_text(encoding="utf-8"))
        if str(module.relative_to(PACKAGE)) != OWNER
    }
    assert named - EXCEPTIONS.keys() == set()


def test_every_exception_is_still_needed():
    for module, name in EXCEPTIONS:
        assert name in (PACKAGE / module).read_text(encoding="utf-8"), (module, name)


def test_the_page_on_a_run_folder_lists_every_file():
    page = (PACKAGE.parents[1] / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = page.partition("## What a run folder holds")[2].partition("\n## ")[0]
    for file in RunFile:
        folder = file.partition("/")[0] + "/"
        listed = f"`{file}`" in table or f"`{folder}" in table
        assert listed or file.endswith(".png"), file
