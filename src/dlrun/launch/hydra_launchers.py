"""Hands the jobs of a sweep to a published Hydra launcher: joblib, SLURM (submitit), Ray, …"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dlrun.config import parts
from dlrun.config.settings import Sweep
from dlrun.core import files
from dlrun.core.errors import UserError
from dlrun.core.files import write_text
from dlrun.core.run_folder import RunFile, RunFolder
from dlrun.sweeps.job import Executor, JobResult, SweepJob

EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
QUIET_OVERRIDES = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null")
LAUNCHER_FOLDER = ".launcher"  # in the sweep's folder: what is handed over, and what comes back
UNLIMITED = sys.maxsize


def split_launcher_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the overrides of a sweep from those of a launcher that is not dlrun's.

    `hydra/launcher=dlrun` and `hydra/sweeper=dlrun` name what `dlrun -m` is anyway, so
    `hydra.launcher.jobs=4` is turned into `sweep.jobs=4`.

    Args:
        words: The words of the command line.

    Returns:
        The words for the sweep, and those for the launcher; the latter are empty where dlrun itself
        carries out the sweep.

    Raises:
        UserError: For another sweeper, or for settings of Hydra without another launcher.
    """
    sweep_words, launcher_words, ours = (
        list[str](),
        list[str](),
        {"launcher": True, "sweeper": True},
    )
    chosen = {
        key: value
        for key, _, value in (word.partition("=") for word in words)
        if key.startswith("hydra/")
    }
    if (sweeper := chosen.get("hydra/sweeper", "dlrun")) != "dlrun":
        raise UserError(
            f"hydra/sweeper={sweeper}: dlrun -m searches by itself: sweep=grid, random, tpe or "
            "halving"
        )
    ours["launcher"] = chosen.get("hydra/launcher", "dlrun") == "dlrun"
    for word in words:
        key = word.lstrip("+~")
        component = next((name for name in ours if key.startswith(f"hydra.{name}.")), None)
        if component and ours[component]:
            sweep_words.append(key.replace(f"hydra.{component}.", "sweep.", 1))
        elif key.startswith(("hydra.", "hydra/")):
            launcher_words.append(word)
        else:
            sweep_words.append(word)
    named = [word for word in launcher_words if not word.startswith("hydra/sweeper=")]
    idle = [word for word in named if ours["launcher"] and not word.startswith("hydra/launcher=")]
    if idle:
        raise UserError(
            f"{idle[0]}: without another launcher (hydra/launcher=…) a sweep takes no settings "
            "of Hydra's own; output=FOLDER says where sweeps are kept"
        )
    return sweep_words, [] if ours["launcher"] else named


class HydraExecutor(Executor):
    """Collects jobs, and lets the launcher run them all when one of them is waited for.

    The launcher's processes run dlrun's own code on jobs that were composed, checked and named
    here. Each result is read from a file that the job's process wrote, so a killed process costs
    its own job alone.

    Attributes:
        folder: The folder of the sweep.
        name: The name of the launcher, as in `hydra/launcher=NAME`.
        batch_size: The largest number of jobs in a batch.
        task: The callable that the launcher's processes receive.
        launcher: Hydra's launcher.
        waiting: Jobs that have been submitted and not yet launched.
        ended: Results that nobody has asked for yet.
        num_launched: The number of jobs launched so far: Hydra's number of the next one.
    """

    def __init__(
        self,
        words: Sequence[str],
        folders: list[Path],
        plugins: tuple[str, ...],
        folder: Path,
        settings: Sweep,
    ) -> None:
        """Set up the launcher.

        Args:
            words: `hydra/launcher=…` and `hydra.launcher.*`.
            folders: The user's config folders, strongest first.
            plugins: Packages that jobs may instantiate.
            folder: The folder of the sweep.
            settings: The settings of the sweep.

        Raises:
            UserError: For settings that only dlrun's own processes can fulfill.
        """
        if settings.prune is not None:
            raise UserError(
                f"sweep.prune={settings.prune} needs dlrun's own processes: leave {words[0]} away"
            )
        if settings.limit is not None:
            raise UserError(
                f"sweep.limit is kept by dlrun's own processes; {words[0]} has its own, such as "
                "hydra.launcher.timeout_min=60 for submitit"
            )
        self.folder, self.name = folder, words[0].partition("=")[2]
        self.batch_size = UNLIMITED if settings.method == "grid" else settings.jobs
        self.task = LauncherTask(str(folder), plugins, str(Path.cwd()))
        self.launcher = instantiate_launcher(words, folders, folder, self.task)
        self.waiting: list[SweepJob] = []
        self.ended: list[JobResult] = []
        self.num_launched = 0

    @property
    def num_free(self) -> int:
        """How many more jobs fit into this batch: all of a grid, or as many as a search tries at
        once.
        """
        return 0 if self.ended else self.batch_size - len(self.waiting)

    def submit(self, job: SweepJob, *companions: SweepJob) -> None:
        """Put a job into the batch, with the companions that it could be trained with."""
        self.waiting += [job, *companions]

    def wait(self) -> JobResult | None:
        """Return the result of one job, launching the batch first where none has ended.

        Returns:
            The result; None when there is no job.
        """
        if not self.ended and self.waiting:
            self.ended, self.waiting = self._launch_batch(self.waiting), []
        return self.ended.pop(0) if self.ended else None

    def _launch_batch(self, jobs: list[SweepJob]) -> list[JobResult]:
        """Run these jobs; a launcher's error is the reason of jobs that wrote no result."""
        for job in jobs:
            # A result of an earlier start must not be taken for this one's.
            get_job_file(self.folder, "ended", job.number).unlink(missing_ok=True)
            write_job_file(self.folder, "job", job.number, job.to_dict())
        self.task.numbers = {
            self.num_launched + index: job.number for index, job in enumerate(jobs)
        }
        lost = f"{self.name} lost its process"
        try:
            self.launcher.launch([job.study_overrides for job in jobs], self.num_launched)
        except Exception as error:
            lost = f"{lost}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.num_launched += len(jobs)
        return [read_job_result(self.folder, job.number, lost) for job in jobs]


@dataclass
class LauncherTask:
    """The callable that a launcher's process receives: it runs the job whose turn it is.

    Attributes:
        folder: The folder of the sweep.
        plugins: Packages that jobs may instantiate.
        working_folder: The working folder, from which plugins are imported.
        numbers: Hydra's job number → the number in the sweep.
    """

    folder: str
    plugins: tuple[str, ...]
    working_folder: str
    numbers: dict[int, int] = field(default_factory=dict)

    def __call__(self, config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        from dlrun.launch.sweep_job import run_job

        folder, number = Path(self.folder), self.numbers[int(HydraConfig.get().job.num)]
        # The launcher may have started its process in another folder.
        if self.plugins and self.working_folder not in sys.path:
            sys.path.insert(0, self.working_folder)
        job = SweepJob.from_dict(
            json.loads(get_job_file(folder, "job", number).read_text(encoding="utf-8"))
        )
        job.folder.mkdir(exist_ok=True)
        console = RunFolder(job.folder).path(RunFile.CONSOLE).open("a", encoding="utf-8")
        # Launchers mix the output of their processes; each job keeps its own.
        with console, redirect_stdout(console), redirect_stderr(console):
            result = run_job(job, self.plugins, None)
        write_job_file(folder, "ended", number, asdict(result))


class StaticConfigLoader:
    """Stands in for Hydra's config loader: a job's config exists already, so nothing is composed
    anew.
    """

    def load_sweep_config(self, master_config: Any, sweep_overrides: Sequence[str]) -> Any:
        """Return the launcher's own settings, with a job's overrides to be named in its log."""
        from omegaconf import open_dict

        # Every job gets its own copy, since Hydra writes the job's number into it.
        config = copy.deepcopy(master_config)
        with open_dict(config):
            config.hydra.overrides.task = list(sweep_overrides)
        return config


def instantiate_launcher(
    words: Sequence[str], folders: list[Path], folder: Path, task: LauncherTask
) -> Any:
    """Instantiate the launcher that these words name.

    Args:
        words: `hydra/launcher=…` and `hydra.launcher.*`.
        folders: The user's config folders, strongest first.
        folder: The folder of the sweep.
        task: The callable to be run for each job.

    Raises:
        UserError: Where the launcher is not installed, or takes no such setting.
    """
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
        loader: Any = StaticConfigLoader()
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        return Plugins.instance().instantiate_launcher(context, task, config)
    except (HydraException, OmegaConfBaseException, ImportError, RuntimeError) as error:
        # Hydra reports a missing plugin package as a missing config file.
        if name in EXTRAS and getattr(error, "missing_cfg_file", None):
            raise UserError(
                f"hydra/launcher={name} is not installed: pip install 'dlrun[{EXTRAS[name]}]'"
            ) from error
        options = ", ".join(option for option in (getattr(error, "options", None) or []))
        reason = str(error).strip().splitlines()[0].removeprefix("In 'hydra/config': ")
        reason += (
            " To add a setting that it does not list: +hydra.launcher.…"
            if "Could not override" in reason
            else ""
        )
        raise UserError(
            f"hydra/launcher={name}: {reason}"
            + (f"; there are: dlrun, {options}" if options else "")
        ) from error


def build_launcher_config(words: Sequence[str], folders: list[Path], folder: Path) -> Any:
    """Compose Hydra's own settings with these words, without any job. May raise Hydra's errors."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import open_dict

    from dlrun.config.compose import _register_folders

    _register_folders(folders)
    # Hydra refuses to initialize twice, and composing the jobs already has.
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(parts.get_builtin_conf()), version_base="1.3", job_name="dlrun"):
        config = compose("config", overrides=[*QUIET_OVERRIDES, *words], return_hydra_config=True)
    with open_dict(config):
        # Only Hydra's node is for the launcher; dlrun's own config of a job is handed over as a
        # file.
        for key in [key for key in config if key != "hydra"]:
            del config[key]
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), "."
    return config


def get_job_file(folder: Path, kind: str, number: int) -> Path:
    """Return the path of the file that holds a job or its result."""
    return folder / LAUNCHER_FOLDER / f"{kind}-{number:03d}.json"


def write_job_file(folder: Path, kind: str, number: int, values: dict[str, Any]) -> None:
    """Write such a file atomically."""
    get_job_file(folder, kind, number).parent.mkdir(exist_ok=True)
    write_text(get_job_file(folder, kind, number), files.to_message(values) + "\n")


def read_job_result(folder: Path, number: int, lost: str) -> JobResult:
    """Read how a job ended, as its process wrote it.

    Args:
        folder: The folder of the sweep.
        number: The number of the job.
        lost: The reason given where the process left no file.

    Returns:
        The result; a job stopped by a signal counts as failed, and can be resumed.
    """
    file = get_job_file(folder, "ended", number)
    if not file.exists():
        return JobResult(number, "failed", lost, 1)
    result = JobResult(**json.loads(file.read_text(encoding="utf-8")))
    if result.status != "cut":
        return result
    reason = (
        f"it was told to stop by signal {result.code - 128} and saved; sweep.retry=true goes on "
        "with it"
    )
    return JobResult(number, "failed", reason, result.code, result.parameters, result.seconds)
