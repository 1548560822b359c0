"""The same fit several times over, each from other starting weights: how much of a score is luck."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlrun.core.dataset import Raw
from dlrun.core.errors import Refused
from dlrun.core.types import Job, Result
from dlrun.protocols.plans import Plan, Rows


@dataclass(frozen=True)
class Repeated:
    """A plan of one fit, done `times` times on the same rows; weights, order of batches and noise differ."""

    plan: Plan
    times: int

    def __call__(self, results: list[Result]) -> Job | None:
        first = self.plan([])
        return replace(first, repeat=len(results)) if first and len(results) < self.times else None

    def rows(self, raw: Raw, job: Job, seed: int) -> Rows:
        return self.plan.rows(raw, replace(job, repeat=0), seed)


def repeated(plan: Plan, times: int) -> Plan:
    """The plan itself, or with times > 1 each of its fits so often. Raises Refused for a plan of folds."""
    if times == 1:
        return plan
    first = plan([])
    if first is None or first.folds > 1 or first.stage != Job().stage:
        raise Refused(f"repeat={times} repeats one fit, but this protocol makes several: use protocol=iterated_kfold")
    return Repeated(plan, times)
