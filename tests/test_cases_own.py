"""Parts of the user's own, settings that are not used, and the words of the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_row_00_the_license_is_in_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["license"] == "MIT"
    assert project["project"]["license-files"] == ["LICENSE"]
    assert "LICENSE" in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert "MIT License" in (ROOT / "LICENSE").read_text() and "[LICENSE]" in (ROOT / "README.md").read_text()
