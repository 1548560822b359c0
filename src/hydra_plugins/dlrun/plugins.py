"""Registers `hydra/launcher=dlrun` and `hydra/sweeper=dlrun` with Hydra.

Without postponed annotations: Hydra runs this file before its module can be found, and dataclasses
would look for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LauncherSettings:
    """The settings of the launcher.

    Attributes:
        jobs: Processes at a time.
        limit: Seconds that a job may take.
        devices: CUDA devices for the processes.
        share: Jobs at a time on each device.
    """

    _target_: str = "hydra_plugins.dlrun.plugins.DlrunLauncher"
    jobs: int = 1
    limit: float | None = None
    devices: list[str] | None = None
    share: int = 1


@dataclass
class SweeperSettings:
    """The settings of the sweeper.

    Attributes:
        method: "grid", "random" or "tpe".
        trials: Trials in all, earlier ones included.
        jobs: Jobs at a time.
        seed: The seed of the search.
        startup: Random trials before TPE models the scores.
        goal: "min" or "max" of what a job returns, one for each number where it returns several.
        params: More values to try, as in Hydra's own sweeper.
    """

    _target_: str = "hydra_plugins.dlrun.plugins.DlrunSweeper"
    method: str = "grid"
    trials: int | None = None
    jobs: int = 1
    seed: int = 0
    startup: int = 10
    goal: list[str] = field(default_factory=lambda: ["min"])
    params: dict[str, str] = field(default_factory=dict)


class DlrunLauncher(Launcher):
    """Runs jobs with configs of dlrun in processes that load torch once.

    A job that is lost costs itself alone. It returns its first validation score that is no loss, or
    else its loss.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store what the jobs are made from; the task function is not called, dlrun runs the
        config.
        """
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run these jobs, each in a folder of its own below hydra.sweep.dir."""
        # Hydra imports every plugin at its start, in other applications too: nothing heavy at the
        # top.
        from dlrun.launch.hydra_plugin import launch_jobs

        return launch_jobs(self, job_overrides, initial_job_idx)


class DlrunSweeper(Sweeper):
    """Tries what dlrun's studies name: every combination, or what Optuna draws.

    The journal lies in hydra.sweep.dir: with the same folder a search is continued, to `trials` in
    all. A job that fails, or returns no number, is a failed trial and ends nothing.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Instantiate the launcher that was chosen."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context, task_function, config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs of the overrides, and return what each job returned."""
        from dlrun.launch.hydra_plugin import run_hydra_sweep

        return run_hydra_sweep(self, arguments)


# Registered when Hydra imports this file, which it does for every file of hydra_plugins.
for kind, node in (("launcher", LauncherSettings), ("sweeper", SweeperSettings)):
    ConfigStore.instance().store(group=f"hydra/{kind}", name="dlrun", node=node, provider="dlrun")
