"""The verdicts of the workflow's steps in words, with what they rest on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dlrun.config.compatibility import PROBLEM_TYPES
from dlrun.core.dataset import Dataset
from dlrun.core.formatting import counted, format_number
from dlrun.core.types import FitJob
from dlrun.data.audit.finding import Finding
from dlrun.evaluation.bootstrap import Interval
from dlrun.evaluation.diagnosis import Diagnosis
from dlrun.workflow.candidates import INITIAL_STAGES, SERIES_BASELINES, UNTRAINED_STAGES, Stage
from dlrun.workflow.decisions import Choice
from dlrun.workflow.evidence import (
    Evidence,
    compare_stages,
    format_stage_score,
    get_stage_label,
    list_failed_stages,
)

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
SELECTION_BIAS = (
    "Its validation score is optimistically biased (selection bias): only the test rows can say "
    "what it is worth."
)
SELECTION_ADVANTAGE = (
    "the networks have an advantage over the linear model here: their epoch and settings were "
    "selected on these very validation rows"
)


@dataclass(frozen=True)
class Verdict:
    """One step of the workflow.

    Attributes:
        step: The number of the step, from 1.
        verdict: What was decided, in a sentence.
        evidence: The lines that it rests on.
        tables: Tables of plain text, {title, columns, rows}.
        stopped: Whether the workflow ends here.
        winner: The recommended stage.
        measure: The metric of success.
    """

    step: int
    verdict: str
    evidence: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    winner: str = ""
    measure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as workflow.json holds it."""
        entry = {
            "step": self.step,
            "title": STEP_TITLES[self.step - 1],
            "verdict": self.verdict,
            "evidence": self.evidence,
        }
        entry |= {"tables": self.tables, "stopped": self.stopped}
        optional = {"winner": self.winner, "measure": self.measure}
        return entry | {key: value for key, value in optional.items() if value}


def problem_verdict(dataset: Dataset, config: dict[str, Any], findings: list[Finding]) -> Verdict:
    """Build step 1: what is predicted from what, and what an audit of the data found.

    Args:
        dataset: The data.
        config: The config of the workflow.
        findings: What the audit found.
    """
    inputs = ", ".join(f"{name} ({kind})" for name, kind in dataset.inputs.items())
    targets = ", ".join(
        f"{name} ({PROBLEM_TYPES[kind].text})" for name, kind in dataset.targets.items()
    )
    leaks = [finding for finding in findings if finding.severity == "leak"]
    warnings = sum(finding.severity == "warning" for finding in findings)
    problems = ((len(leaks), "leak"), (warnings, "warning"))
    counts = " and ".join(
        counted(count, noun) if count else f"no {noun}s" for count, noun in problems
    )
    rows = f"{len(dataset):,} training + validation rows"
    text = f"{targets} from {inputs}, {rows}. The audit found {counts}."
    if leaks:
        text += (
            " LEAK: scores cannot be believed before that is looked into: drop such columns or "
            "duplicates, or keep the rows of one owner together (data.group)."
        )
    lines = [f"{finding.severity.upper()}: {finding.description}" for finding in findings]
    return Verdict(1, text, [*([dataset.note] if dataset.note else []), *lines])


def metric_verdict(choice: Choice, other_targets: list[str]) -> Verdict:
    """Build step 2: the metric of success."""
    secondary = [name for name in choice.nodes if name != choice.name]
    lines = [f"beside it: {', '.join(secondary)}"] if secondary else []
    lines += (
        [f"judged by the first target; learned beside it: {', '.join(other_targets)}"]
        if other_targets
        else []
    )
    return Verdict(2, f"Success is {choice.name}: {choice.reason}.", lines, measure=choice.name)


def protocol_verdict(choice: Choice, job: FitJob, train: int, val: int) -> Verdict:
    """Build step 3: the evaluation protocol.

    Args:
        choice: The protocol.
        job: The first fit.
        train: The number of its training rows.
        val: The number of its validation rows.
    """
    folds = f", {job.folds} folds" if job.folds > 1 else ""
    rows = (
        f"the first fit trains on {train:,} rows and is validated on {val:,}; test rows are sealed"
    )
    return Verdict(3, f"{choice.name}{folds}: {choice.reason}.", [rows])


def preprocessing_verdict(prepared: dict[str, Any]) -> Verdict:
    """Build step 4: the preparation, with examples."""
    text = "Learned on the training rows of each fit, and applied to all others as it is."
    return Verdict(4, text, prepared["evidence"], prepared["tables"])


def capacity_verdict(evidence: Evidence, ladder: list[str]) -> Verdict:
    """Build step 6: the model at which training improves while validation worsens.

    Args:
        evidence: What the fits show.
        ladder: The stages of rising capacity.
    """
    climbed = [
        name for name in ladder if evidence.get_results(name) and not evidence.has_failed(name)
    ]
    largest = climbed[-1]
    lines = [
        f"{get_stage_label(name)}: {evidence.diagnose(name).text}"
        for name in ("small", *climbed)
        if evidence.get_results(name)
    ]
    if evidence.overfits(largest):
        name = get_stage_label(largest)[0].upper() + get_stage_label(largest)[1:]
        return Verdict(6, f"{name} {_describe_divergence(evidence.diagnose(largest))}.", lines)
    skipped = [name for name in ladder if not evidence.get_results(name)]
    skipped_note = f" ({', '.join(skipped)} would go beyond the budget)" if skipped else ""
    text = f"No model overfits yet{skipped_note}: a larger one, or longer training, may still gain."
    return Verdict(6, text, lines)


def _describe_divergence(diagnosis: Diagnosis) -> str:
    """Say from where the validation loss rises, and what to do about it."""
    epoch = (diagnosis.epoch or 0) + 1
    if diagnosis.kind == "rising":
        return (
            f"ends with a rising validation loss, from epoch {epoch} on: overfitting, as far as "
            "its epochs can tell"
        )
    return (
        f"overfits from epoch {epoch}: more capacity than the data support; "
        "regularize or stop earlier"
    )


def tuning_verdict(
    evidence: Evidence, stages: list[Stage], base: str, left_out: list[str]
) -> Verdict:
    """Build step 7: what each change does to the network that overfits, and the best candidate.

    Args:
        evidence: What the fits show.
        stages: All stages.
        base: The network that overfits.
        left_out: Stages that would exceed the budget.
    """
    names = evidence.get_valid_stages("constant")
    best = evidence.get_best_stage(names)
    winner = select_simple_stage(evidence, names)
    changes = {name: _format_changes(name, stages, base) for name in names}
    change_note = f" ({changes[best]})" if best not in INITIAL_STAGES else ""
    score = f"{evidence.measure} {format_stage_score(evidence, best)}"
    text = f"The best of {len(names)} candidates is {best}{change_note}: {score}. {SELECTION_BIAS}"
    if winner != best:
        text += (
            f" Recommended: {get_stage_label(winner)}, {format_stage_score(evidence, winner)}, "
            f"for {best} is {compare_stages(evidence, best, winner)}; "
            "where the lead may be chance, the simpler model is preferred."
        )
    rivals = dict.fromkeys((base, winner, "linear"))
    lines = [
        f"against {get_stage_label(name)}: {compare_stages(evidence, best, name)}"
        for name in rivals
        if name != best and name in names
    ]
    lines += [SELECTION_ADVANTAGE] if best not in UNTRAINED_STAGES and "linear" in names else []
    lines += [f"failed: {name}" for name in list_failed_stages(evidence)]
    if left_out:
        lines.append(f"not tried, they would go beyond the budget: {', '.join(left_out)}")
    lines += evidence.budget.describe_stopped(names)
    table = _build_candidate_table(evidence, changes, base, best, winner)
    return Verdict(7, text, lines, [table], winner=winner)


def _build_candidate_table(
    evidence: Evidence, changes: dict[str, str], base: str, best: str, winner: str
) -> dict[str, Any]:
    labels = {
        best: f"{best} (best)",
        winner: f"{winner} ({'best' if winner == best else 'recommended'})",
    }
    columns = [
        "candidate",
        "changes",
        f"{evidence.measure} [95 %]",
        f"better than {base}",
        "kept epoch",
        "diagnosis",
    ]
    rows = [
        [labels.get(name, name), *_build_row(evidence, name, change, base)]
        for name, change in changes.items()
    ]
    title = (
        "Every candidate on the same validation rows, scored with its kept epoch; "
        f"below {base}, changes to {base}"
    )
    return {"title": title, "columns": columns, "rows": rows}


def select_simple_stage(evidence: Evidence, names: list[str]) -> str:
    """Return the best candidate, or a simpler one where the lead over that may be chance."""
    best = evidence.get_best_stage(names)
    # The simplest model first: of several within chance, the simplest is recommended.
    for name in UNTRAINED_STAGES:
        lead = evidence.get_difference(best, name) if name in names and name != best else None
        if lead is not None and lead.low is not None and not lead.is_nonzero:
            return name
    return best


def _format_changes(name: str, stages: list[Stage], base: str) -> str:
    """Format what a candidate changes: in the network that overfits, or else in the config."""
    patches = {stage.name: stage.patch for stage in stages}
    # Stages up to the base are changes to the config, later ones changes to the base.
    order = list(patches)
    base_patch = {} if order.index(name) <= order.index(base) else patches[base]
    changed = {key: value for key, value in patches[name].items() if base_patch.get(key) != value}
    changes = ", ".join(
        f"{key}={value}" for key, value in changed.items() if not key.startswith("callback")
    )
    untrained = {"linear": "scikit-learn", **dict.fromkeys(SERIES_BASELINES, "nothing is learned")}
    return untrained.get(name) or changes or "as configured"


def _build_row(evidence: Evidence, name: str, changes: str, base: str) -> list[str]:
    """Build a candidate's row of the table, without its name."""
    difference = "" if name == base else compare_stages(evidence, name, base)
    curve = ["", ""]
    # Models that are solved have no epochs and no learning curve.
    if name not in ("linear", *SERIES_BASELINES):
        curve = [str(evidence.get_best_epoch(name)), evidence.diagnose(name).kind]
    return [changes, format_stage_score(evidence, name), difference, *curve]


# Diagnoses after which a network says nothing about the data.
UNTRAINED_KINDS = ("not learning", "underfitting", "unstable", "unclear")


def baseline_verdict(evidence: Evidence) -> Verdict:
    """Build step 5: whether anything beats the baseline, on the same rows."""
    tried = [name for name in INITIAL_STAGES[1:] if evidence.get_results(name)]
    winners = [name for name in tried if evidence.beats_baseline(name)]
    baselines = ["constant", *(name for name in SERIES_BASELINES if evidence.get_results(name))]
    lines = [
        f"{get_stage_label(name)} has {evidence.measure} {format_stage_score(evidence, name)}"
        for name in baselines
    ]
    for name in tried:
        lead = compare_stages(evidence, name, evidence.best_baseline)
        lines.append(f"{get_stage_label(name)} has {format_stage_score(evidence, name)}: {lead}")
    lines += evidence.budget.describe_stopped(INITIAL_STAGES)
    if not winners:
        return Verdict(5, _describe_not_beaten(evidence, tried), lines, stopped=True)
    best = evidence.get_best_stage(winners)
    beaten = get_stage_label(evidence.best_baseline)
    score = f"{evidence.measure} {format_stage_score(evidence, best)}"
    text = f"{get_stage_label(best)} beats {beaten}: {score}. {_describe_networks(evidence, tried)}"
    text = text.rstrip()
    # Labels begin in lower case, for use within a sentence.
    return Verdict(5, text[0].upper() + text[1:], lines)


def _describe_networks(evidence: Evidence, tried: list[str]) -> str:
    """Compare the best network with the linear model; "" where the linear model does not win."""
    winners = [name for name in tried if evidence.beats_baseline(name)]
    networks = [name for name in winners if name not in ("constant", "linear")]
    if not networks:
        undertrained = _describe_undertrained(evidence, tried)
        return undertrained or "No network does better yet: what there is to learn may be linear."
    if "linear" not in winners:
        return ""
    best = evidence.get_best_stage(networks)
    difference = compare_stages(evidence, best, "linear")
    return f"Against the linear model, {get_stage_label(best)} is {difference}."


def _describe_undertrained(evidence: Evidence, tried: list[str]) -> str:
    """Say that no network was tried, or that those tried have not learned yet; "" where they
    have.
    """
    networks = [name for name in tried if name != "linear"]
    kinds = {
        name: evidence.diagnose(name).kind
        for name in networks
        if evidence.get_score(name) is not None
    }
    if not kinds:
        return "No network was tried, or none came to an end."
    if any(kind not in UNTRAINED_KINDS for kind in kinds.values()):
        return ""
    diagnoses = ", ".join(f"{get_stage_label(name)}: {kind}" for name, kind in kinds.items())
    return (
        f"The networks have not learned what they can ({diagnoses}): train longer, or with another "
        "learning rate (dlrun lr), before this says anything about the data."
    )


def _describe_not_beaten(evidence: Evidence, tried: list[str]) -> str:
    baseline = get_stage_label(evidence.best_baseline)
    differences = [evidence.get_difference(name, evidence.best_baseline) for name in tried]
    leads = [lead for lead in differences if lead]
    widths = [_half_width(lead) for lead in leads if lead.low is not None]
    if not widths:
        reasons = (lead.why for lead in leads if lead.why)
        reason = next(reasons, "nothing has a score on all rows")
        return f"Whether anything beats {baseline} cannot be told: {reason}."
    text = f"Nothing beats {baseline}. "
    # A width of 0 says nothing: all rows are equal.
    if margin := max(widths):
        rows = max(lead.n for lead in leads)
        text += (
            f"On {rows:,} validation rows a lead below about {format_number(margin)} cannot be "
            "told from chance. "
        )
    if unfinished := _describe_undertrained(evidence, tried):
        return text + unfinished
    return text + (
        "One of two hypotheses fails: that the targets can be predicted from these inputs, or "
        "that these rows are enough to learn how. Look at the inputs: is what a person would need "
        "to predict them there? Then more rows, better features, or another question."
    )


def _half_width(interval: Interval) -> float:
    assert interval.low is not None and interval.high is not None
    return (interval.high - interval.low) / 2
