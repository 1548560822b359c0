"""Models that read a row as a few numbers and answer with the row itself: autoencoders, plain and variational."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlrun.config.constraints import Count
from dlrun.core.types import Batch, Spec
from dlrun.models.dense import stack
from dlrun.models.encoders import Layout, check, decoder, maps, product, tower
from dlrun.models.layers import Activation, Init, initialise
from dlrun.models.named import Named


class Autoencoder(nn.Module):
    """columns: what is read and answered, one picture or numbers side by side. heads: what is said of a code.

    towers: input name → its convolutions, where there are some. answers values (B, *shape): logits of pixels, or
    numbers. note: stands beside every result.
    """

    def __init__(
        self, columns: dict[str, tuple[int, ...]], layout: Layout, latent: int, heads: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.columns, self.latent, self.note = columns, latent, ""
        first, *others = columns.values()
        self.shape = first if not others else (sum(map(product, columns.values())),)
        check(layout, self.shape)
        name = next(iter(columns))
        self.towers = Named({name: tower(self.shape[0], layout)} if layout.filters else {})
        width = product(maps(self.shape, layout)[-1])
        dense = stack(layout.dense, width, layout.activation, 0.0, False) if layout.dense else []
        self.dense = nn.Sequential(nn.Flatten(), *dense)
        self.heads = nn.ModuleDict({head: nn.Linear([width, *layout.dense][-1], latent) for head in heads})
        self.decoder = decoder(latent, self.shape, layout)

    @property
    def pictures(self) -> bool:
        """Whether rows are pictures (C, H, W), whose pixels lie in [0, 1]."""
        return len(self.shape) == 3

    def read(self, batch: Batch) -> Tensor:
        """What is read of a batch, and is to be answered: (B, *shape)."""
        parts = [batch[name] for name in self.columns]
        return parts[0] if len(parts) == 1 else torch.cat([part.flatten(1) for part in parts], 1)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each head says of these rows (B, latent); the first head is the code."""
        for convolutions in self.towers.values():
            x = convolutions(x)
        features = self.dense(x)
        return tuple(head(features) for head in self.heads.values())

    def decode(self, codes: Tensor) -> Tensor:
        """Raw values (B, *shape) of codes (B, latent)."""
        return self.decoder(codes)  # type: ignore[no-any-return]

    def values(self, raw: Tensor) -> Tensor:
        """Raw values as those of the rows: pixels in [0, 1], or numbers as they are."""
        return raw.sigmoid() if self.pictures else raw

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"+".join(self.columns): self.decode(self.encode(self.read(batch))[0])}


def autoencoder(
    spec: Spec,
    *,
    filters: list[Count],
    strides: list[Count],
    kernel: Count,
    dense: list[Count],
    latent: Count,
    decoder_dense: list[Count],
    decoder_filters: list[Count],
    activation: Activation,
    init: Init,
) -> nn.Module:
    """An encoder to `latent` numbers and a decoder back (Hinton & Salakhutdinov 2006), of a picture or all numbers.

    filters, strides: the encoder's convolutions, none for dense layers alone. dense: the layers after them.
    decoder_dense, decoder_filters: the decoder's, see `encoders.Layout`. ValueError where they do not fit together.
    """
    layout = Layout(filters, strides, kernel, dense, decoder_dense, decoder_filters, activation)
    return started(spec, Autoencoder(columns_of(spec), layout, latent, ("code",)), init)


def vae(
    spec: Spec,
    *,
    filters: list[Count],
    strides: list[Count],
    kernel: Count,
    dense: list[Count],
    latent: Count,
    decoder_dense: list[Count],
    decoder_filters: list[Count],
    activation: Activation,
    init: Init,
) -> nn.Module:
    """A network for objective=variational: the encoder says mean and log-variance of `latent` numbers (book §8.4).

    The settings are those of `autoencoder`. ValueError where the data give no picture, or the layers do not fit.
    """
    columns = columns_of(spec)
    if len(next(iter(columns.values()))) != 3:
        raise ValueError(f"it makes pictures, and the data give {kinds_of(spec)}; objective=autoencoder reads numbers")
    layout = Layout(filters, strides, kernel, dense, decoder_dense, decoder_filters, activation)
    return started(spec, Autoencoder(columns, layout, latent, ("mean", "log_var")), init)


def columns_of(spec: Spec) -> dict[str, tuple[int, ...]]:
    """The input that is a picture, or all that are numbers: name → shape. ValueError for none, or several pictures."""
    pictures = {name: field.shape for name, field in spec.inputs.items() if field.kind == "image"}
    numbers = {name: field.shape for name, field in spec.inputs.items() if field.kind == "number"}
    if len(pictures) > 1:
        raise ValueError(f"it reads one picture, and the data give {kinds_of(spec)}")
    if not pictures and not numbers:
        raise ValueError(f"it reads a picture or numbers, and the data give {kinds_of(spec)}")
    return pictures or numbers


def kinds_of(spec: Spec) -> str:
    """The inputs in words."""
    return ", ".join(f"{field.kind} '{name}'" for name, field in spec.inputs.items())


def started(spec: Spec, model: Autoencoder, init: Init) -> nn.Module:
    """The model with its starting weights, and a note of the inputs that it leaves out."""
    initialise(model, init)
    left = [name for name in spec.inputs if name not in model.columns]
    model.note = f"inputs that are not reproduced: {', '.join(left)}" if left else ""
    return model.to(memory_format=torch.channels_last) if model.pictures else model  # type: ignore[call-overload,no-any-return]
