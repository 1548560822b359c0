"""Jobs of a sweep handed to a published Hydra launcher: joblib, SLURM through submitit, Ray, or another."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dlrun.config import groups
from dlrun.config.settings import Sweep
from dlrun.core import json_text
from dlrun.core.errors import UserError
from dlrun.core.files import write_text
from dlrun.sweeps.job import JobResult, SweepJob

EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
QUIET_OVERRIDES = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null")
LAUNCHER_FOLDER = ".launcher"  # in the sweep's folder: what is handed over, and what comes back
UNLIMITED = sys.maxsize


def split_launcher_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a sweep, and those for a launcher that is not ours; none where dlrun itself carries it out.

    hydra/launcher=dlrun and hydra/sweeper=dlrun name what `dlrun -m` is anyway: hydra.launcher.jobs=4 is sweep.jobs=4.
    Raises UserError for another sweeper.
    """
    rest, foreign, own = list[str](), list[str](), {"launcher": True, "sweeper": True}
    chosen = {
        key: value
        for key, _, value in (word.partition("=") for word in words)
        if key.startswith("hydra/")
    }
    if (sweeper := chosen.get("hydra/sweeper", "dlrun")) != "dlrun":
        raise UserError(
            f"hydra/sweeper={sweeper}: dlrun -m searches by itself: sweep=grid, random, tpe or halving"
        )
    own["launcher"] = chosen.get("hydra/launcher", "dlrun") == "dlrun"
    for word in words:
        key = word.lstrip("+~")
        part = next((name for name in own if key.startswith(f"hydra.{name}.")), None)
        if part and own[part]:
            rest.append(key.replace(f"hydra.{part}.", "sweep.", 1))
        elif key.startswith(("hydra.", "hydra/")):
            foreign.append(word)
        else:
            rest.append(word)
    named = [word for word in foreign if not word.startswith("hydra/sweeper=")]
    idle = [word for word in named if own["launcher"] and not word.startswith("hydra/launcher=")]
    if idle:
        raise UserError(f"{idle[0]}: without another launcher (hydra/launcher=…) a sweep takes no settings of Hydra's "
                      "own; output=FOLDER says where sweeps are kept")  # fmt: skip
    return rest, [] if own["launcher"] else named


class HydraExecutor:
    """Collects jobs, and has the launcher run them all when one of them is waited for.

    The launcher's processes run our own work on jobs that were composed, checked and named here; what comes of each is
    read from a file that its process wrote, so a process that is killed costs its own job alone.
    """

    def __init__(
        self,
        words: Sequence[str],
        folders: list[Path],
        plugins: tuple[str, ...],
        folder: Path,
        settings: Sweep,
    ) -> None:
        """words: hydra/launcher=… and hydra.launcher.*. Raises UserError for what only our own processes can do."""
        if settings.prune is not None:
            raise UserError(
                f"sweep.prune={settings.prune} needs dlrun's own processes: leave {words[0]} away"
            )
        if settings.limit is not None:
            raise UserError(f"sweep.limit is kept by dlrun's own processes; {words[0]} has its own, such as "
                          "hydra.launcher.timeout_min=60 for submitit")  # fmt: skip
        self.folder, self.name = folder, words[0].partition("=")[2]
        self.at_once = UNLIMITED if settings.method == "grid" else settings.jobs
        self.task = LauncherTask(str(folder), plugins, str(Path.cwd()))
        self.launcher = instantiate_launcher(words, folders, folder, self.task)
        self.waiting: list[SweepJob] = []
        self.ended: list[JobResult] = []
        self.handed, self.stopped = 0, 0

    @property
    def num_free(self) -> int:
        """How many more jobs may go into this batch: all of a grid, or as many as a search tries at once."""
        return 0 if self.ended or self.stopped else self.at_once - len(self.waiting)

    def submit(self, job: SweepJob, *others: SweepJob) -> None:
        """Put a job into the batch, and whatever comes with it."""
        self.waiting += [job, *others]

    def wait(self) -> JobResult | None:
        """How one of the jobs ended; launches the batch first where none has. None when there is no job."""
        if not self.ended and self.waiting:
            self.ended, self.waiting = self._launch_batch(self.waiting), []
        return self.ended.pop(0) if self.ended else None

    @contextmanager
    def session(self) -> Iterator[None]:
        """Inside, jobs are run; the launcher looks after its processes itself."""
        yield

    def _launch_batch(self, jobs: list[SweepJob]) -> list[JobResult]:
        """Run these jobs; a launcher that ends with an error says what became of the jobs that left no word."""
        for job in jobs:
            get_job_file(self.folder, "ended", job.number).unlink(missing_ok=True)
            write_job_file(self.folder, "job", job.number, job.to_dict())
        self.task.numbers = {self.handed + place: job.number for place, job in enumerate(jobs)}
        lost = f"{self.name} lost its process"
        try:
            self.launcher.launch([job.study_overrides for job in jobs], self.handed)
        except Exception as error:
            lost = f"{lost}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.handed += len(jobs)
        return [read_job_result(self.folder, job.number, lost) for job in jobs]


@dataclass
class LauncherTask:
    """What a launcher's process calls: it runs the job whose turn it is. numbers: the launcher's count → our job."""

    folder: str
    plugins: tuple[str, ...]
    home: str
    numbers: dict[int, int] = field(default_factory=dict)

    def __call__(self, config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        from dlrun.launch.sweep_job import run_job

        folder, number = Path(self.folder), self.numbers[int(HydraConfig.get().job.num)]
        if self.plugins and self.home not in sys.path:
            sys.path.insert(0, self.home)
        job = SweepJob.from_dict(
            json.loads(get_job_file(folder, "job", number).read_text(encoding="utf-8"))
        )
        job.folder.mkdir(exist_ok=True)
        console = (job.folder / "console.txt").open("a", encoding="utf-8")
        with console, redirect_stdout(console), redirect_stderr(console):
            ended = run_job(job, self.plugins, None)
        write_job_file(folder, "ended", number, asdict(ended))


class StaticConfigLoader:
    """What launchers take for Hydra's loader: the config of a job is there already, so nothing is composed anew."""

    def load_sweep_config(self, master_config: Any, sweep_overrides: Sequence[str]) -> Any:
        """The launcher's own settings, with the words of one job to be named in its log."""
        from omegaconf import open_dict

        config = copy.deepcopy(master_config)
        with open_dict(config):
            config.hydra.overrides.task = list(sweep_overrides)
        return config


def instantiate_launcher(
    words: Sequence[str], folders: list[Path], folder: Path, task: LauncherTask
) -> Any:
    """The launcher that these words name, set up to call our task. Raises UserError where it is not there."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException
    from hydra.types import HydraContext
    from omegaconf.errors import OmegaConfBaseException

    name = next(
        (word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")), ""
    )
    try:
        config = build_launcher_config(words, folders, folder)
        context = HydraContext(config_loader=StaticConfigLoader(), callbacks=Callbacks())  # type: ignore[arg-type]
        return Plugins.instance().instantiate_launcher(context, task, config)
    except (HydraException, OmegaConfBaseException, ImportError, RuntimeError) as error:
        if name in EXTRAS and getattr(error, "missing_cfg_file", None):
            raise UserError(
                f"hydra/launcher={name} is not installed: pip install 'dlrun[{EXTRAS[name]}]'"
            ) from error
        there = ", ".join(option for option in (getattr(error, "options", None) or []))
        first = str(error).strip().splitlines()[0].removeprefix("In 'hydra/config': ")
        first += (
            " To add a setting that it does not list: +hydra.launcher.…"
            if "Could not override" in first
            else ""
        )
        raise UserError(
            f"hydra/launcher={name}: {first}" + (f"; there are: dlrun, {there}" if there else "")
        ) from error


def build_launcher_config(words: Sequence[str], folders: list[Path], folder: Path) -> Any:
    """Hydra's own settings with these words in them, and nothing of a job. May raise Hydra's errors."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import open_dict

    from dlrun.config.compose import _register_folders

    _register_folders(folders)
    GlobalHydra.instance().clear()
    with initialize_config_dir(
        str(groups.get_builtin_conf()), version_base="1.3", job_name="dlrun"
    ):
        config = compose("config", overrides=[*QUIET_OVERRIDES, *words], return_hydra_config=True)
    with open_dict(config):
        for key in [key for key in config if key != "hydra"]:
            del config[key]
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), "."
    return config


def get_job_file(folder: Path, what: str, number: int) -> Path:
    """The file with a job, or with what came of it."""
    return folder / LAUNCHER_FOLDER / f"{what}-{number:03d}.json"


def write_job_file(folder: Path, what: str, number: int, values: dict[str, Any]) -> None:
    """Write such a file, whole or not at all."""
    get_job_file(folder, what, number).parent.mkdir(exist_ok=True)
    write_text(get_job_file(folder, what, number), json_text.to_message(values) + "\n")


def read_job_result(folder: Path, number: int, lost: str) -> JobResult:
    """How a job ended as its process wrote it; a job stopped from outside has failed, and can be gone on with."""
    file = get_job_file(folder, "ended", number)
    if not file.exists():
        return JobResult(number, "failed", lost, 1)
    ended = JobResult(**json.loads(file.read_text(encoding="utf-8")))
    if ended.status != "cut":
        return ended
    why = f"it was told to stop by signal {ended.code - 128} and saved; sweep.retry=true goes on with it"
    return JobResult(number, "failed", why, ended.code, ended.parameters, ended.seconds)
