"""What is minimized: a problem is its losses, in the order in which they are taken."""

from __future__ import annotations

PAIRS: dict[str, tuple[str, ...]] = {  # objective → the models that it is made for, which answer no target
    "adversarial": ("dcgan", "dcgan_book"),
    "variational": ("vae",),
    "autoencoder": ("autoencoder",),
    "dream": ("layers",),
    "style": ("layers",),
}


def fault_of(objective: str, model: str) -> str | None:
    """Why this model does not go with this objective, and what does; None if it does, or one is the user's own."""
    if objective in PAIRS and model and model not in PAIRS[objective]:
        return f"objective={objective} is not made for model={model}; there are: {', '.join(PAIRS[objective])}"
    owners = [name for name, models in PAIRS.items() if model in models]
    if owners and objective and objective not in owners:
        return f"model={model} answers no target: it goes with objective={' or objective='.join(owners)}"
    return None
