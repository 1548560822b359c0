"""The steps of the workflow in words: what was decided, and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dlrun.config.compatibility import PROBLEM_TYPES
from dlrun.core.dataset import Dataset
from dlrun.core.formatting import counted, format_number
from dlrun.core.types import FitJob, Score
from dlrun.data.audit.finding import Finding
from dlrun.evaluation.bootstrap import Interval
from dlrun.evaluation.diagnosis import Diagnosis
from dlrun.workflow.candidates import INITIAL_STAGES, SERIES_BASELINES, UNTRAINED_STAGES, Stage
from dlrun.workflow.decisions import Choice
from dlrun.workflow.evidence import Evidence

STEP_TITLES = (
    "Problem and data",
    "Measure of success",
    "Evaluation protocol",
    "Preparation",
    "Beat the baseline",
    "Overfit",
    "Regularise and tune",
    "Final evaluation",
)
LAST_STEP = len(STEP_TITLES)
UNTRAINED_KINDS = ("not learning", "underfitting", "unstable", "unclear")
STAGE_NAMES = {
    "constant": "the constant baseline",
    "last_value": "the last value",
    "same_time_before": "the value at the same time of an earlier day",
    "linear": "a linear model",
    "final_linear": "a linear model",
    "small": "a small network",
}


SELECTION_BIAS = "Its validation score is optimistically biased (selection bias): only the test rows can say what it is worth."
SELECTION_ADVANTAGE = (
    "the networks have an advantage over the linear model here: their epoch and settings were selected on these very "
    "validation rows"
)


@dataclass(frozen=True)
class Verdict:
    """One step: its sentence, the lines that it rests on, and tables {title, columns, rows} of plain text."""

    step: int
    verdict: str
    evidence: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    winner: str = ""
    measure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As workflow.json holds it."""
        found = {
            "step": self.step,
            "title": STEP_TITLES[self.step - 1],
            "verdict": self.verdict,
            "evidence": self.evidence,
        }
        found |= {"tables": self.tables, "stopped": self.stopped}
        named = {"winner": self.winner, "measure": self.measure}
        return found | {key: value for key, value in named.items() if value}


def problem_verdict(raw: Dataset, config: dict[str, Any], found: list[Finding]) -> Verdict:
    """Step 1: what is predicted from what, and what an audit of the development rows found."""
    inputs = ", ".join(f"{name} ({kind})" for name, kind in raw.inputs.items())
    targets = ", ".join(
        f"{name} ({PROBLEM_TYPES[kind].text})" for name, kind in raw.targets.items()
    )
    leaks = [finding for finding in found if finding.severity == "leak"]
    warnings = sum(finding.severity == "warning" for finding in found)
    each = ((len(leaks), "leak"), (warnings, "warning"))
    counts = " and ".join(
        counted(count, thing) if count else f"no {thing}s" for count, thing in each
    )
    text = f"{targets} from {inputs}, {len(raw):,} training + validation rows. The audit found {counts}."
    if leaks:
        text += " LEAK: scores cannot be believed before that is looked into: drop such columns or duplicates, or keep "
        text += "the rows of one owner together (data.group)."
    lines = [f"{finding.severity.upper()}: {finding.description}" for finding in found]
    return Verdict(1, text, [*([raw.note] if raw.note else []), *lines])


def metric_verdict(choice: Choice, others: list[str]) -> Verdict:
    """Step 2."""
    beside = [name for name in choice.nodes if name != choice.name]
    lines = [f"beside it: {', '.join(beside)}"] if beside else []
    lines += (
        [f"judged by the first target; learnt beside it: {', '.join(others)}"] if others else []
    )
    return Verdict(2, f"Success is {choice.name}: {choice.reason}.", lines, measure=choice.name)


def protocol_verdict(choice: Choice, job: FitJob, train: int, val: int) -> Verdict:
    """Step 3."""
    folds = f", {job.folds} folds" if job.folds > 1 else ""
    rows = (
        f"the first fit trains on {train:,} rows and is validated on {val:,}; test rows are sealed"
    )
    return Verdict(3, f"{choice.name}{folds}: {choice.reason}.", [rows])


def preprocessing_verdict(prepared: dict[str, Any]) -> Verdict:
    """Step 4."""
    text = "Learnt on the training rows of each fit, and applied to all others as it is."
    return Verdict(4, text, prepared["evidence"], prepared["tables"])


def baseline_verdict(seen: Evidence) -> Verdict:
    """Step 5: whether anything beats the common-sense answer, on the same rows."""
    tried = [name for name in INITIAL_STAGES[1:] if seen.get_results(name)]
    winners = [name for name in tried if seen.beats_baseline(name)]
    free = ["constant", *(name for name in SERIES_BASELINES if seen.get_results(name))]
    evidence = [
        f"{get_stage_label(name)} has {seen.measure} {format_score_interval(seen.get_score(name))}"
        for name in free
    ]
    evidence += [
        f"{get_stage_label(name)} has {format_score_interval(seen.get_score(name))}: {compare_stages(seen, name, seen.best_baseline)}"
        for name in tried
    ]
    evidence += seen.spending.describe_stopped(INITIAL_STAGES)
    if not winners:
        return Verdict(5, _describe_not_beaten(seen, tried), evidence, stopped=True)
    best = seen.get_best_stage(winners)
    text = f"{get_stage_label(best)} beats {get_stage_label(seen.best_baseline)}: {seen.measure} {format_score_interval(seen.get_score(best))}."
    networks = [name for name in winners if name not in ("constant", "linear")]
    if networks and "linear" in winners:
        best = seen.get_best_stage(networks)
        text += f" Against the linear model, {get_stage_label(best)} is {compare_stages(seen, best, 'linear')}."
    elif not networks:
        text += f" {_describe_undertrained(seen, tried) or 'No network does better yet: what there is to learn may be linear.'}"
    return Verdict(5, text[0].upper() + text[1:], evidence)


def _describe_undertrained(seen: Evidence, tried: list[str]) -> str:
    """That no network was tried, or that those that were had not learnt yet; nothing where they had."""
    networks = [name for name in tried if name != "linear"]
    kinds = {
        name: seen.diagnose(name).kind for name in networks if seen.get_score(name) is not None
    }
    if not kinds:
        return "No network was tried, or none came to an end."
    if any(kind not in UNTRAINED_KINDS for kind in kinds.values()):
        return ""
    told = ", ".join(f"{get_stage_label(name)}: {kind}" for name, kind in kinds.items())
    return (
        f"The networks have not learnt what they can ({told}): train longer, or with another learning rate (dlrun lr), "
        "before this says anything about the data."
    )


def _describe_not_beaten(seen: Evidence, tried: list[str]) -> str:
    leads = [seen.get_difference(name, seen.best_baseline) for name in tried]
    rows = max((found.n for found in leads if found), default=0)
    if all(found is None or found.low is None for found in leads):
        why = next(
            (found.why for found in leads if found and found.why), "nothing has a score on all rows"
        )
        return (
            f"Whether anything beats {get_stage_label(seen.best_baseline)} cannot be told: {why}."
        )
    half = max(
        (_half_width(found) for found in leads if found and found.low is not None), default=None
    )
    small = (
        f"On {rows:,} validation rows a lead below about {format_number(half)} cannot be told from chance. "
        if half
        else ""
    )
    if unfinished := _describe_undertrained(seen, tried):
        return f"Nothing beats {get_stage_label(seen.best_baseline)}. {small}{unfinished}"
    return (
        f"Nothing beats {get_stage_label(seen.best_baseline)}. {small}One of two hypotheses fails: that the targets can be predicted "
        "from these inputs, or that these rows are enough to learn how. Look at the inputs: is what a person would "
        "need to answer in them? Then more rows, better features, or another question."
    )


def _half_width(found: Interval) -> float:
    assert found.low is not None and found.high is not None
    return (found.high - found.low) / 2


def capacity_verdict(seen: Evidence, ladder: list[str]) -> Verdict:
    """Step 6: the rung at which training improves while validation worsens."""
    climbed = [name for name in ladder if seen.get_results(name) and not seen.has_failed(name)]
    last = climbed[-1]
    evidence = [
        f"{get_stage_label(name)}: {seen.diagnose(name).text}"
        for name in ("small", *climbed)
        if seen.get_results(name)
    ]
    if seen.overfits(last):
        name = get_stage_label(last)[0].upper() + get_stage_label(last)[1:]
        return Verdict(6, f"{name} {_describe_divergence(seen.diagnose(last))}.", evidence)
    rest = [name for name in ladder if not seen.get_results(name)]
    why = f" ({', '.join(rest)} would go beyond the budget)" if rest else ""
    text = f"No model overfits yet{why}: a larger one, or longer training, may still gain."
    return Verdict(6, text, evidence)


def _describe_divergence(found: Diagnosis) -> str:
    """From where validation loss goes up, and what to do about it."""
    epoch = (found.epoch or 0) + 1
    if found.kind == "rising":
        return f"ends with a rising validation loss, from epoch {epoch} on: overfitting, as far as its epochs can tell"
    return f"overfits from epoch {epoch}: more capacity than the data support; regularize or stop earlier"


def tuning_verdict(seen: Evidence, stages: list[Stage], base: str, left_out: list[str]) -> Verdict:
    """Step 7: what each change does to the network that overfits, and the best of all candidates."""
    names = seen.get_valid_stages("constant")
    best, count = seen.get_best_stage(names), len(names)
    winner = select_simple_stage(seen, names)
    changes = {name: _format_changes(name, stages, base) for name in names}
    marks = {
        best: f"{best} (best)",
        winner: f"{winner} ({'best' if winner == best else 'recommended'})",
    }
    rows = [[marks.get(name, name), *_build_row(seen, name, changes[name], base)] for name in names]
    columns = [
        "candidate",
        "changes",
        f"{seen.measure} [95 %]",
        f"better than {base}",
        "kept epoch",
        "diagnosis",
    ]
    title = f"Every candidate on the same validation rows, scored with its kept epoch; below {base}, changes to {base}"
    table = {"title": title, "columns": columns, "rows": rows}
    made = f" ({changes[best]})" if best not in INITIAL_STAGES else ""
    text = f"The best of {count} candidates is {best}{made}: {seen.measure} {format_score_interval(seen.get_score(best))}. {SELECTION_BIAS}"
    if winner != best:
        text += f" Recommended: {get_stage_label(winner)}, {format_score_interval(seen.get_score(winner))}, for {best} is {compare_stages(seen, best, winner)}"
        text += "; where the lead may be chance, the simpler model is preferred."
    rivals = [
        name for name in dict.fromkeys((base, winner, "linear")) if name != best and name in names
    ]
    evidence = [
        f"against {get_stage_label(name)}: {compare_stages(seen, best, name)}" for name in rivals
    ]
    evidence += [SELECTION_ADVANTAGE] if best not in UNTRAINED_STAGES and "linear" in names else []
    evidence += [f"failed: {name}" for name in list_failed_stages(seen)]
    evidence += (
        [f"not tried, they would go beyond the budget: {', '.join(left_out)}"] if left_out else []
    )
    evidence += seen.spending.describe_stopped(names)
    return Verdict(7, text, evidence, [table], winner=winner)


def select_simple_stage(seen: Evidence, names: list[str]) -> str:
    """The best candidate, or a simpler one where its lead over that may be chance."""
    best = seen.get_best_stage(names)
    for name in UNTRAINED_STAGES:
        found = seen.get_difference(best, name) if name in names and name != best else None
        if found is not None and found.low is not None and not found.is_nonzero:
            return name
    return best


def _format_changes(name: str, stages: list[Stage], base: str) -> str:
    """What a candidate changes: in the network that overfits, or, where it came before that, in the config."""
    patches = {stage.name: stage.patch for stage in stages}
    before = {} if name in list(patches)[: list(patches).index(base) + 1] else patches[base]
    changed = {key: value for key, value in patches[name].items() if before.get(key) != value}
    changes = ", ".join(
        f"{key}={value}" for key, value in changed.items() if not key.startswith("callback")
    )
    special = {"linear": "scikit-learn", **dict.fromkeys(SERIES_BASELINES, "nothing is learned")}
    return special.get(name) or changes or "as configured"


def _build_row(seen: Evidence, name: str, changes: str, base: str) -> list[str]:
    """A candidate's row of the table, without its name."""
    than = "" if name == base else compare_stages(seen, name, base)
    curve = (
        ["", ""]
        if name in ("linear", *SERIES_BASELINES)
        else [str(seen.get_best_epoch(name)), seen.diagnose(name).kind]
    )
    return [changes, format_score_interval(seen.get_score(name)), than, *curve]


def list_failed_stages(seen: Evidence) -> list[str]:
    """Stages that have results but no score, with the reason."""
    return list(
        dict.fromkeys(
            f"{r.job.stage} ({r.note})" for r in seen.results if r.split == "val" and not r.scores
        )
    )


def compare_stages(seen: Evidence, stage: str, than: str) -> str:
    """'0.0123 better [0.0041, 0.0204]', '… worse …', or that it may be chance."""
    return format_difference(seen.get_difference(stage, than))


def format_difference(found: Interval | None) -> str:
    """A difference in words, see `compare_stages`."""
    if found is None:
        return "not comparable"
    if found.value == found.low == found.high == 0:
        return "equal on every row"
    if found.value != found.value:
        return "not comparable, where the measure is not defined"
    way = "better" if found.value >= 0 else "worse"
    if found.low is None or found.high is None:
        return f"{format_number(abs(found.value))} {way} ({found.why})"
    ends = (found.low, found.high) if found.value >= 0 else (-found.high, -found.low)
    text = f"{format_number(abs(found.value))} {way} [{format_number(ends[0])}, {format_number(ends[1])}]"
    return text if found.is_nonzero else f"{text}, which may be chance"


def format_score_interval(score: Interval | Score | None) -> str:
    """'0.8891 [0.8802, 0.8977]'."""
    if score is None:
        return "failed"
    if score.low is None or score.high is None:
        return format_number(score.value)
    return f"{format_number(score.value)} [{format_number(score.low)}, {format_number(score.high)}]"


def get_stage_label(stage: str) -> str:
    """A stage in words."""
    return STAGE_NAMES.get(
        stage, f"'{stage}'" if stage != "configured" else "the configured network"
    )
