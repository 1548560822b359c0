"""From logits to the next token: temperature, and the tokens that may be drawn."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_SPECIAL_TOKENS = 2  # padding and the unknown token, which are never generated


def token_probabilities(
    logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Return how likely each token is to be drawn: logits / temperature, renormalized (book §8.1).

    Args:
        logits: Of each token (size,).
        temperature: 0 always draws the most likely token.
        top_k: Only so many of the most likely tokens may be drawn.
        top_p: Only the most likely tokens that together have this probability may be drawn, the
            most likely one in any case (Holtzman et al. 2020).

    Returns:
        Probabilities (size,), double precision.
    """
    # double precision: a low temperature makes large exponents
    logits = logits.double().clone()
    logits[:NUM_SPECIAL_TOKENS] = -torch.inf
    if temperature == 0:
        # dividing by 0 is not possible, but its limit is the most likely token
        top_k, temperature = 1, 1.0
    probabilities = (logits / temperature).softmax(-1)
    if top_k is None and top_p is None:
        return probabilities
    # stable: of equally likely tokens the first one wins on every device
    ranked, order = probabilities.sort(descending=True, stable=True)
    allowed = torch.ones_like(ranked, dtype=torch.bool)
    if top_k is not None:
        allowed[top_k:] = False
    if top_p is not None:
        # what comes before a token must be below the limit, so that the limit is reached
        allowed &= ranked.cumsum(0) - ranked < top_p
        allowed[0] = True
    chosen = torch.zeros_like(probabilities).scatter(0, order, ranked * allowed)
    return chosen / chosen.sum()
