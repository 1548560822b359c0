"""Step 5 in words: whether anything beats the baseline, and what to think where nothing does."""

from __future__ import annotations

from dlrun.core.formatting import format_number
from dlrun.evaluation.bootstrap import Interval
from dlrun.workflow.candidates import INITIAL_STAGES, SERIES_BASELINES
from dlrun.workflow.evidence import Evidence
from dlrun.workflow.stage_text import compare_stages, format_stage_score, get_stage_label
from dlrun.workflow.verdicts import Verdict

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
