"""Lightning as a peer of scripts/bench --peers.

As its documentation has it: a LightningModule with `training_step` and `configure_optimizers`, a DataLoader over a
TensorDataset, and `Trainer(max_epochs=…).fit(module, loader)`. Loss and measure are logged with `self.log`, their mean
over the epoch, which is what the others tell too; the measure is computed by hand, since torchmetrics costs more.
variant: quiet switches logger, checkpoints, progress bar and summary off; defaults leaves them as they come (what they
print goes to the null device, what they write into a folder that is thrown away).
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from typing import Any

import lightning
import torch
from bench_peer import EPS, LR, RHO, Fit, Given
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")  # advice to start more worker processes, of no use to one thread
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
QUIET = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


class Network(lightning.LightningModule):
    """The network, its loss, and its optimizer."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.network, self.criterion, self.measure = (
            given.network(),
            given.criterion(),
            given.measure,
        )

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        raw = self.network(x)
        loss: torch.Tensor = self.criterion(raw, y)
        self.log("loss", loss, on_step=False, on_epoch=True)
        self.log("measure", self.measure(raw.detach(), y), on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(self.parameters(), lr=LR, alpha=RHO, eps=EPS)


def read(given: Given) -> Any:
    """The tensors."""
    return given.tensors()


def peer(given: Given, tensors: Any, variant: str) -> tuple[Fit, int]:
    """What trains, and how many parameters the network has."""
    settings: dict[str, Any] = dict(QUIET) if variant == "quiet" else {}
    folder = tempfile.mkdtemp(prefix="lightning-", dir=given.folder)
    network = Network(given)
    if variant != "quiet":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def fit(epochs: int, rows: int | None) -> None:
        dataset = TensorDataset(*(tensor[:rows] for tensor in tensors))
        loader = DataLoader(dataset, batch_size=given.batch_size, shuffle=True)
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **settings
        )
        trainer.fit(network, loader)

    return fit, sum(parameter.numel() for parameter in network.parameters())
