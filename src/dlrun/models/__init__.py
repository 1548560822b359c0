"""Models: functions that read a Spec and answer with a torch module. Needs no torch to be asked who accepts what."""

from __future__ import annotations

from collections.abc import Iterable

ANY = ("number", "binary", "category", "multilabel", "fraction", "bag", "image")

ACCEPTS: dict[str, tuple[str, ...]] = {
    "constant": (*ANY, "tokens", "series"),
    "linear": ANY,
    "linear_solved": ANY,
    "dense": ANY,
    "convnet": ANY,
    "residual": ANY,
    "inception": ANY,
    "separable": ANY,
    "pretrained": ANY,
}
NEEDS: dict[str, str] = dict.fromkeys(("convnet", "residual", "inception", "separable", "pretrained"), "image")


def reads(model: str, kinds: Iterable[str]) -> bool:
    """Whether a model of ours can read inputs of these kinds."""
    need = NEEDS.get(model)
    return all(kind in ACCEPTS[model] for kind in kinds) and (need is None or need in kinds)


def model_fault(model: str, inputs: dict[str, str]) -> str | None:
    """Why this model cannot read these inputs (name → kind), and who can; None if it can, or is the user's own."""
    if model not in ACCEPTS or reads(model, inputs.values()):
        return None
    wrong = [f"{kind} '{name}'" for name, kind in inputs.items() if kind not in ACCEPTS[model]]
    wants = f"cannot read {', '.join(wrong)}" if wrong else f"needs an {NEEDS[model]} input"
    given = ", ".join(f"{kind} '{name}'" for name, kind in inputs.items())
    able = ", ".join(name for name in sorted(ACCEPTS) if reads(name, inputs.values()))
    return f"model={model} {wants}, but the data give {given}; models that can read it: {able}"
