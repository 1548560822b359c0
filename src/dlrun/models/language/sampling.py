"""From logits to the next token: temperature, and which tokens are left to choose from."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_SPECIAL_TOKENS = 2  # padding and the unknown token, which no text is written with


def token_probabilities(
    logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """How likely each token (size,) is to be drawn: logits / temperature, renormalised (book §8.1); 0 takes the best.

    top_k: among so many of the likeliest. top_p: among the likeliest that together have this share (Holtzman et al.
    2020), the likeliest always among them.
    """
    logits = logits.double().clone()
    logits[:NUM_SPECIAL_TOKENS] = -torch.inf
    if temperature == 0:
        top_k, temperature = 1, 1.0
    shares = (logits / temperature).softmax(-1)
    if top_k is None and top_p is None:
        return shares
    ranked, order = shares.sort(descending=True, stable=True)
    kept = torch.ones_like(ranked, dtype=torch.bool)
    if top_k is not None:
        kept[top_k:] = False
    if top_p is not None:
        kept &= ranked.cumsum(0) - ranked < top_p
        kept[0] = True
    chosen = torch.zeros_like(shares).scatter(0, order, ranked * kept)
    return chosen / chosen.sum()
