"""What a finished run foretells of a series: the values that come after the last row of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dlrun.core.errors import Refused
from dlrun.core.run_folder import RunDir
from dlrun.data.preprocessing.pipeline import apply
from dlrun.experiment.inference import fits_again, outputs_of
from dlrun.experiment.inference_folds import Part, mean_of
from dlrun.models.pretrained.earlier_run import answering_jobs, read_spec


@dataclass(frozen=True)
class Next:
    """One value to come. column: of the target in the file. when: its moment, ahead: how far after the last row that
    is. value: in the column's own unit ('' where it names none)."""

    target: str
    column: str
    when: str
    ahead: str
    value: float
    unit: str


@dataclass(frozen=True)
class Foretold:
    """last: the moment of the file's last row. rows: how many the run looked at. values: by target and horizon. told:
    whose answers these are, where that needs a word."""

    last: str
    rows: int
    values: list[Next]
    told: str = ""


def of_series(folder: Path, file: Path, plugins: tuple[str, ...] = (), fit: str = "", **reading: str) -> Foretold:
    """What a run foretells after the last row of a CSV file with its columns; the file needs no target beyond them.

    The window ends with that last row, as in training. reading: its encoding, where that is another. Raises
    Refused where the run reads no series, where its data have changed since, and where the file lacks columns or rows.
    """
    jobs, told = answering_jobs(folder, fit)
    targets = read_spec(RunDir(folder), jobs[0].name).targets
    if not targets or any(field.outlook is None for field in targets.values()):
        raise Refused(f"{folder} foretells no series")
    parts = list[Part]()
    for assembly, one in fits_again(folder, jobs, plugins):
        assert assembly.raw.further is not None and assembly.raw.order is not None
        rows, _ = assembly.raw.further(str(file), **reading)
        table = apply(assembly.raw, one.data, rows)
        parts.append(Part(one, table, outputs_of(one, table)))
    outputs = mean_of(parts)
    assert assembly.raw.order is not None
    last = float(rows[assembly.raw.order][-1])
    values: list[Next] = []
    for target, ahead in assembly.raw.outlook.items():
        for place, after in enumerate(ahead.ahead):
            when = ahead.clock(last + after * ahead.every)
            value = float(outputs[target][0, place])
            values.append(Next(target, ahead.column, when, ahead.lasting(after), value, ahead.unit))
    some = next(iter(assembly.raw.outlook.values()))
    return Foretold(some.clock(last), some.lookback - some.step + 1, values, told)
