"""Whatever is wrong with a series, or with what is asked of it, is refused: exit code 2 and one message that helps."""

from __future__ import annotations

import re

import numpy as np
import pytest
from test_series import text, values

from dlrun.cli.main import main

GOOD = text(values(200))
LINES = GOOD.splitlines()
ASKED = "data.time=when data.target='T (degC)' data.lookback=24"


def changed(line, column, cell):
    """The good file with one cell changed; line 1 is the header."""
    lines = [row.split(",") for row in LINES]
    lines[line - 1][column] = cell
    return "\n".join(map(",".join, lines))


def moved(hours):
    return text(values(200), hours=hours)


BACK, STILL, GAP = np.arange(200), np.arange(200), np.arange(200)
BACK[60:] -= 10
STILL[60:] -= 1
GAP[60:] += 10
CASES = {
    "no file is named": ("task=series", None, "data.path=FILE.csv data.time=COLUMN"),
    "no time column is named": (
        "data.target=x data.lookback=3",
        GOOD,
        "data.time=COLUMN. There are: when, T",
    ),
    "no target is named": (
        "data.time=when data.lookback=3",
        GOOD,
        "say data.target=COLUMN.*has: when, T",
    ),
    "no lookback": ("data.time=when data.target='T (degC)'", GOOD, "say data.lookback=ROWS"),
    "a time column that is not there": (
        ASKED.replace("=when", "=wen"),
        GOOD,
        "'wen' is no column.*did you mean 'when'",
    ),
    "a target that is not there": (
        ASKED.replace("T (degC)", "T (deg)"),
        GOOD,
        "'T .deg.' is no column.*mean 'T .degC.'",
    ),
    "an input that is not there": (f"{ASKED} data.inputs=[p]", GOOD, "column 'p' is no column"),
    "a target of texts": (
        ASKED,
        changed(7, 1, "warm"),
        "line 7: column 'T .degC.' has 'warm', not a finite number",
    ),
    "an endless number": (ASKED, changed(7, 1, "inf"), "line 7: column 'T .degC.' has 'inf'"),
    "time goes back": (ASKED, moved(BACK), r"goes back at 1 row \(line 62\).*Sort the rows"),
    "time goes back, split": (
        f"{ASKED} data.gaps=split",
        moved(BACK),
        r"goes back at 1 row \(line 62\).*Sort",
    ),
    "time stands still": (
        ASKED,
        moved(STILL),
        r"stands still at 1 row \(line 62\).*data.gaps=split",
    ),
    "time has a gap": (
        ASKED,
        moved(GAP),
        r"leaves a gap at 1 row \(line 62\); the usual step is 1 h.*data.gaps=split",
    ),
    "a time that cannot be read": (
        ASKED,
        changed(9, 0, "noon"),
        "line 9: 'noon' in 'when' is no time.*time_format=",
    ),
    "a time of another layout": (
        f"{ASKED} data.time_format=%d/%m/%y",
        GOOD,
        "line 2: .*data.time_format=%d/%m/%y",
    ),
    "a time that is not there": (
        ASKED,
        changed(9, 0, ""),
        "no time that can be read|empty in 1 row .line 9",
    ),
    "a missing number": (
        ASKED,
        changed(9, 2, ""),
        r"misses numbers in 'p \(mbar\)' at 1 row \(line 9\)",
    ),
    "a missing number at the start": (
        f"{ASKED} data.impute=forward",
        changed(2, 2, "NA"),
        "nothing comes before line 2",
    ),
    "lookback longer than the data": (
        ASKED.replace("=24", "=500"),
        GOOD,
        "150 rows, and a window needs 501 .data.lookback.",
    ),
    "too few rows to hold some out": (
        ASKED.replace("=24", "=90") + " data.test=0",
        GOOD,
        "leave none to train on before a gap of 90",
    ),
    "too few test rows for a window": (
        f"{ASKED} data.test=10",
        GOOD,
        "the test rows .data.test=10. .* are 10 rows",
    ),
    "all rows set aside": (f"{ASKED} data.test=200", GOOD, "data.test=200 sets all 200 rows"),
    "lookback that steps do not fill": (
        f"{ASKED} data.step=5",
        GOOD,
        "data.lookback=24 is no multiple of data.step=5",
    ),
    "no delay": (
        f"{ASKED} data.delay=0",
        GOOD,
        "data.delay=0: it must be a whole number from 1 up",
    ),
    "a negative delay": (f"{ASKED} data.delay=[1,-2]", GOOD, "data.delay=.*whole number from 1 up"),
    "the same delay twice": (
        f"{ASKED} data.delay=[2,2]",
        GOOD,
        r"data.delay=\[2, 2\].*several different ones",
    ),
    "gaps of no kind": (f"{ASKED} data.gaps=mend", GOOD, "data.gaps='mend'.*refuse, split"),
    "a random split": (
        f"{ASKED} protocol=holdout protocol.by=random",
        GOOD,
        "share their values.*last_in_time",
    ),
    "folds": (f"{ASKED} protocol=kfold", GOOD, "share their values.*walk_forward"),
    "a file with a header alone": (ASKED, LINES[0], "has a header but no rows"),
    "a line too short": (
        ASKED,
        "\n".join([*LINES[:5], "2020-03-01 04:00:00,1"]),
        "line 6: 2 cells where the header has 4",
    ),
    "same time before, too short a window": (
        f"{ASKED} data.delay=12 model=same_time_before model.period=48",
        GOOD,
        "larger",
    ),
    "the last value of what is no input": (
        f"{ASKED} data.inputs=['p (mbar)'] model=last_value",
        GOOD,
        "there are none of T",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_a_series_is_refused(tmp_path, monkeypatch, capfd, name):
    asked, content, says = CASES[name]
    monkeypatch.chdir(tmp_path)
    words = [] if content is None else ["task=series", "data.path=s.csv"]
    if content is not None:
        (tmp_path / "s.csv").write_text(content + "\n")
    words += re.findall(r"(?:[^\s']|'[^']*')+", asked)
    code = main([*words, "output=o", "engine.epochs=1"])
    said = capfd.readouterr().err
    assert code == 2, said
    assert "Traceback" not in said and re.search(says, said), said


def test_there_are_enough_of_them():
    assert len(CASES) >= 30
