"""Models: functions that read a Spec and answer with a torch module. Needs no torch to be asked who accepts what."""

from __future__ import annotations

ANY = ("number", "binary", "category", "multilabel", "fraction", "bag", "image")

ACCEPTS: dict[str, tuple[str, ...]] = {
    "constant": (*ANY, "tokens", "series"),
    "linear": ANY,
    "dense": ANY,
    "convnet": ANY,
}
NEEDS: dict[str, str] = {"convnet": "image"}


def model_fault(model: str, inputs: dict[str, str]) -> str | None:
    """Why this model cannot read these inputs (name → kind), with who can; None if it can, or if it is the user's own."""
    if model not in ACCEPTS:
        return None
    need = NEEDS.get(model)
    wrong = [f"{kind} '{name}'" for name, kind in inputs.items() if kind not in ACCEPTS[model]]
    if not wrong and (need is None or need in inputs.values()):
        return None
    given = ", ".join(f"{kind} '{name}'" for name, kind in inputs.items())
    able = [m for m in sorted(ACCEPTS) if m != model and model_fault(m, inputs) is None]
    wants = f"needs an {need} input" if need else f"cannot read {', '.join(wrong)}"
    return f"model={model} {wants}, but the data give {given}; models that can read it: {', '.join(able)}"
