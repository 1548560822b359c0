"""Stages, scores and differences of a workflow in words."""

from __future__ import annotations

from dlrun.core.formatting import format_number
from dlrun.core.types import Score
from dlrun.evaluation.bootstrap import Interval
from dlrun.workflow.evidence import Evidence

STAGE_NAMES = {
    "constant": "the constant baseline",
    "last_value": "the last value",
    "same_time_before": "the value at the same time of an earlier day",
    "linear": "a linear model",
    "final_linear": "a linear model",
    "small": "a small network",
    "configured": "the configured network",
}


def format_stage_score(evidence: Evidence, stage: str) -> str:
    """Format the score of a stage, see `format_score_interval`."""
    return format_score_interval(evidence.get_score(stage))


def list_failed_stages(evidence: Evidence) -> list[str]:
    """List stages that have results but no score, with the reason."""
    failed = [
        f"{result.job.stage} ({result.note})"
        for result in evidence.results
        if result.split == "val" and not result.scores
    ]
    # The folds of one stage that failed alike are named once.
    return list(dict.fromkeys(failed))


def compare_stages(evidence: Evidence, stage: str, reference: str) -> str:
    """Format '0.0123 better [0.0041, 0.0204]', '… worse …', or that it may be chance."""
    return format_difference(evidence.get_difference(stage, reference))


def format_difference(difference: Interval | None) -> str:
    """Format a difference in words, see `compare_stages`."""
    if difference is None:
        return "not comparable"
    if difference.value == difference.low == difference.high == 0:
        return "equal on every row"
    if difference.value != difference.value:  # nan
        return "not comparable, where the measure is not defined"
    word = "better" if difference.value >= 0 else "worse"
    text = f"{format_number(abs(difference.value))} {word}"
    if difference.low is None or difference.high is None:
        return f"{text} ({difference.why})"
    low, high = difference.low, difference.high
    # A difference for the worse is shown without its sign, and so is its interval.
    if difference.value < 0:
        low, high = -high, -low
    text += f" [{format_number(low)}, {format_number(high)}]"
    return text if difference.is_nonzero else f"{text}, which may be chance"


def format_score_interval(score: Interval | Score | None) -> str:
    """Format '0.8891 [0.8802, 0.8977]'."""
    if score is None:
        return "failed"
    if score.low is None or score.high is None:
        return format_number(score.value)
    return f"{format_number(score.value)} [{format_number(score.low)}, {format_number(score.high)}]"


def get_stage_label(stage: str) -> str:
    """Name a stage in words."""
    return STAGE_NAMES.get(stage, f"'{stage}'")
