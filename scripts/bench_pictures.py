"""The image path of dlrun against the usual one: ImageFolder and DataLoader with workers, feeding the same network.

Real photographs of cats and dogs at 150×150, in batches of 32, with the book's augmentation (§5.2). The loop by hand
decodes, resizes and augments single images in as many worker processes as there are cores, as torchvision's examples
do; dlrun reads the images that its first start has decoded and augments whole batches. Wall-clock time on all cores.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.core.files import data_root

BATCH, SIDE, RATE = 32, 150, 1e-4
EPOCH_RATIO, MODEL_SHARE = 2.0, 0.85  # the least for a release
Epoch = Callable[[], float]  # runs one, and answers with its seconds


def compare_pictures(rows: int, rounds: int) -> bool:
    """Print seconds an epoch of both, their ratio, and the network's share of dlrun's time; whether it is enough."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = (
            name  # so that dlrun's first start decodes, and its time is seen
        )
        start = time.perf_counter()
        trainer = ours(rows, Path(name))
        ready = time.perf_counter() - start
        unpack(rows, Path(name) / "photos")
        feed, train = by_hand(Path(name) / "photos")
        mine = {"epoch": lambda: our_epoch(trainer), "feeding alone": lambda: our_feeding(trainer)}
        theirs = {"epoch": train, "feeding alone": feed}
        print(f"{rows} images; dlrun's first start, decoding included: {ready:.1f} s")
        ratios = {what: ratio(what, theirs[what], mine[what], rounds) for what in mine}
        share = statistics.median(model_share(trainer) for _ in range(rounds))
        print(
            f"forward and backward of the network: {share:.0%} of dlrun's epoch (least {MODEL_SHARE:.0%});",
            end=" ",
        )
        print(f"if all else took no time, the ratio would be {ratios['epoch'] / share:.2f}")
    return ratios["epoch"] >= EPOCH_RATIO and share >= MODEL_SHARE


def ratio(what: str, theirs: Epoch, mine: Epoch, rounds: int) -> float:
    """Median seconds of both, interleaved after one warm epoch each, and the median of the rounds' ratios."""
    theirs(), mine()
    pairs = [(theirs(), mine()) for _ in range(rounds)]
    found = statistics.median(a / b for a, b in pairs)
    seconds = [statistics.median(times) for times in zip(*pairs, strict=True)]
    least = f" (least {EPOCH_RATIO:.1f})" if what == "epoch" else ""
    print(
        f"{what:<14} loader {seconds[0]:7.2f} s  dlrun {seconds[1]:7.2f} s  ratio {found:.2f}{least}",
        flush=True,
    )
    return found


def ours(rows: int, folder: Path) -> Any:
    """dlrun's trainer, as a run of these words has it."""
    from dlrun.config.compose import configure
    from dlrun.experiment.builder import ExperimentBuilder

    words = [
        "task=cats_dogs",
        "augment=book",
        "protocol=whole",
        "engine.device=cpu",
        "model.dropout=0.5",
    ]
    words += [f"data.development={rows // 2}", f"engine.batch_size={BATCH}", f"optimizer.lr={RATE}"]
    assembly = ExperimentBuilder(configure(words, []), folder / "run")
    job = assembly.plan([])
    assert job is not None
    return assembly.build_fit(job).trainer


def our_epoch(trainer: Any) -> float:
    start = time.perf_counter()
    trainer.run_split("train", trainer.data.train, train=True)
    trainer.epoch += 1
    return time.perf_counter() - start


def our_feeding(trainer: Any) -> float:
    start = time.perf_counter()
    for batch in trainer.data.train.batches(BATCH, seed=0):
        trainer.objective.augment(batch)
    return time.perf_counter() - start


def model_share(trainer: Any) -> float:
    """The share of an epoch that is spent in the network's forward and in backward, without the optimizer's step."""
    with stopwatch(trainer.objective.model) as spent:
        whole = our_epoch(trainer)
    return sum(spent) / whole


@contextmanager
def stopwatch(model: nn.Module) -> Iterator[list[float]]:
    """Inside, the seconds of each forward of the model and of each backward are noted."""
    spent: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **keys: Any) -> Any:
            start = time.perf_counter()
            found = call(*args, **keys)
            spent.append(time.perf_counter() - start)
            return found

        return run

    backward, Tensor.backward = Tensor.backward, timed(Tensor.backward)  # type: ignore[method-assign]
    model.forward = timed(model.forward)
    try:
        yield spent
    finally:
        Tensor.backward = backward  # type: ignore[method-assign]
        del model.forward


def unpack(rows: int, folder: Path) -> None:
    """The same images as files, one folder a class."""
    with zipfile.ZipFile(data_root() / "dogs_vs_cats" / "train.zip") as archive:
        for animal in ("cat", "dog"):
            (folder / animal).mkdir(parents=True)
            for number in range(rows // 2):
                name = f"{animal}.{number}.jpg"
                (folder / animal / name).write_bytes(archive.read(f"train/{name}"))


def by_hand(folder: Path) -> tuple[Epoch, Epoch]:
    """The usual loop: an epoch of feeding alone, and one of training."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [
        v2.Resize((SIDE, SIDE)),
        v2.RandomAffine(
            40, (0.2, 0.2), (0.8, 1.2), 11.459, interpolation=v2.InterpolationMode.BILINEAR
        ),
        v2.RandomHorizontalFlip(),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    photos = ImageFolder(str(folder), v2.Compose(steps))
    loader = DataLoader(
        photos, BATCH, shuffle=True, num_workers=os.cpu_count() or 1, persistent_workers=True
    )
    model = network()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=RATE, alpha=0.9, eps=1e-7)

    def feed() -> float:
        start = time.perf_counter()
        for _ in loader:
            pass
        return time.perf_counter() - start

    return feed, lambda: train(loader, model, optimizer)


def train(loader: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """An epoch of the plain loop, loss and accuracy summed."""
    start = time.perf_counter()
    total, right = torch.zeros(()), torch.zeros(())
    for pictures, classes in loader:
        target = classes[:, None].float()
        optimizer.zero_grad()
        raw = model(pictures)
        loss = nn.functional.binary_cross_entropy_with_logits(raw, target)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(classes)
        right += ((raw.detach() > 0) == (target > 0.5)).sum()
    float(total), float(right)
    return time.perf_counter() - start


def network() -> nn.Module:
    """The book's (§5.2), written by hand: 3,453,121 parameters."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128), (128, 128)):
        layers += [nn.Conv2d(before, after, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(6272, 512), nn.ReLU(), nn.Linear(512, 1)
    )
