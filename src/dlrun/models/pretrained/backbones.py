"""What a pretrained model stands on: the convolutional part of a torchvision network, or of an earlier run."""

from __future__ import annotations

import difflib
import logging
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlrun.core.errors import Refused, in_short
from dlrun.models.pretrained import weights as files
from dlrun.models.pretrained.earlier_run import trained

log = logging.getLogger("dlrun")

HEAD = ("avgpool", "dropout", "flatten", "fc", "classifier", "head", "heads")  # the first of them begins the head
AUXILIARY = ("aux1", "aux2", "AuxLogits")
HALF = ("inception_v3", "googlenet")  # published weights that want (x - .5) / .5; torchvision converts to it inside
ENDS = (nn.AdaptiveAvgPool2d, nn.Dropout, nn.Flatten, nn.Identity)


@dataclass(frozen=True)
class Base:
    """Layers from pictures to a feature map. size: height and width that the weights were trained with.

    mean, std: how they want each channel normalised; empty: as it is, in [0, 1]. run: folder and fit of an earlier run.
    """

    name: str
    net: nn.Sequential
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    run: tuple[Path, str] | None = None


def base_of(architecture: str, weights: str | None, column: str) -> Base:
    """The base that these two name. weights: of torchvision, a file, a run folder (whose base it is then), or none.

    column: the input that it is for, where a run has several towers. Raises Refused.
    """
    if weights is not None and Path(weights).is_dir():
        return of_run(Path(weights), column)
    return of_zoo(architecture, weights)


def of_zoo(architecture: str, weights: str | None) -> Base:
    """A network of torchvision without its head."""
    from torchvision import models

    there = [name for name in models.list_models(module=models) if not name.startswith("vit_")]
    if architecture not in there:
        raise Refused(unknown(architecture, there))
    choices = models.get_model_weights(architecture)
    entry = chosen(architecture, weights, choices)
    net = models.get_model(architecture, **starts(architecture, weights))
    base = cut(net, architecture)
    if weights is not None and files.needed():
        fill(net, base, Path(weights) if entry is None else files.find(architecture, entry))
    wants = (entry or choices.DEFAULT).transforms()
    mean, std = ((0.5,) * 3, (0.5,) * 3) if architecture in HALF else (tuple(wants.mean), tuple(wants.std))
    return Base(architecture, base, 3, (wants.crop_size[0],) * 2, mean, std)


def unknown(architecture: str, there: list[str]) -> str:
    """The message for a name that cannot be had."""
    if architecture.startswith("vit_"):
        return f"architecture={architecture} has no convolutional part; those that have: {in_short(there)}"
    near = difflib.get_close_matches(architecture.lower(), there, 1)
    guess = f": did you mean {near[0]}?" if near else "."
    return f"no architecture '{architecture}'{guess} There are: {in_short(there, architecture)}"


def chosen(architecture: str, weights: str | None, choices: Any) -> Any:
    """The member of the weights enum that is meant; None where a file, or nothing, is. Raises Refused."""
    if weights is None:
        return None
    if Path(weights).is_file():
        log.info("weights: %s", weights)
        return None
    if weights in choices.__members__:
        return choices[weights]
    if not files.needed() and weights.endswith(".pth"):
        return None  # it is gone, and nobody needs it
    raise Refused(
        f"weights={weights} is neither weights of {architecture} ({', '.join(choices.__members__)}), "
        "nor a file, nor the folder of a run"
    )


def starts(architecture: str, weights: str | None) -> dict[str, Any]:
    """How to build a network without drawing starting weights in vain, which takes VGG seconds."""
    slow = architecture in HALF or (architecture.startswith("vgg") and weights is not None)
    return {"init_weights": False} if slow else {}


def cut(net: nn.Module, architecture: str) -> nn.Sequential:
    """The layers of a torchvision network up to its head, by their own names."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, part in net.named_children():
        if name in HEAD:
            break
        if name not in AUXILIARY:
            parts[name] = nn.Sequential(*part) if isinstance(part, nn.ModuleList) else part
    if architecture.startswith("densenet"):
        parts["relu"] = nn.ReLU()  # its forward has it between the two
    return nn.Sequential(parts)


def fill(net: nn.Module, base: nn.Sequential, path: Path) -> None:
    """Give a network's base the weights of a file; a head in it is left out. Raises Refused where they do not fit."""
    wanted = set(base.state_dict())
    state = files.load(path)
    for key in list(state):
        # DenseNet's files have the names of an older torchvision
        name = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", key)
        value = state.pop(key)
        if name in wanted:
            state[name] = value
    if absent := sorted(wanted - set(state) - {key for key in wanted if key.endswith("num_batches_tracked")}):
        raise Refused(f"{path} are weights of another network: it has no {absent[0]} ({len(absent)} are missing)")
    try:
        net.load_state_dict(state, strict=False)  # by the whole network, which knows its older formats
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())
        raise Refused(f"{path} are weights of another network: {reason[:200]}") from error


def of_run(folder: Path, column: str) -> Base:
    """The convolutional part of the model of an earlier run."""
    found = trained(folder, answers=False)
    towers: Any = getattr(found.model, "towers", None)
    if not towers:
        raise Refused(f"weights={folder}: the model of that run has no convolutional part to stand on")
    if column not in towers and len(towers) > 1:
        raise Refused(f"weights={folder}: that run has no input '{column}', but {', '.join(towers)}")
    column = column if column in towers else next(iter(towers))
    channels, *size = found.spec.inputs[column].shape
    layers = list(towers[column].named_children())
    while layers and isinstance(layers[-1][1], ENDS):
        layers.pop()
    log.info("weights: the convolutional part of %s", folder)
    net, own = nn.Sequential(OrderedDict(layers)), (folder, found.job.name)
    return Base(f"the model of {folder}", net, channels, (size[0], size[1]), run=own)


def freeze(base: Base, unfreeze: str) -> list[nn.Module]:
    """Let only the layers from `unfreeze` on learn; answers with those that do not.

    unfreeze: none, all, last_block, or the name of a layer of the base. Raises Refused for any other name.
    """
    names = dict(base.net.named_modules())
    order = list(names.values())
    if unfreeze == "none":
        first = len(order)
    elif unfreeze == "all":
        first = 0
    else:
        name = last_block(base) if unfreeze == "last_block" else unfreeze
        if name not in names or not name:
            raise Refused(no_layer(base, name, list(names)))
        first = list(names).index(name)
        log.info("unfrozen: %s, from %s on", base.name, name)
    learning = {id(weight) for module in order[first:] for weight in module.parameters(recurse=False)}
    for weight in base.net.parameters():
        weight.requires_grad = id(weight) in learning
    return order[:first]


def no_layer(base: Base, name: str, names: list[str]) -> str:
    """The message for a layer that is not there."""
    near = difflib.get_close_matches(name, names, 1)
    guess = f": did you mean {near[0]}?" if near else "."
    there = ", ".join(block for block, _ in blocks(base.net))
    return f"unfreeze={name}: {base.name} has no such layer{guess} There are: none, last_block, all, {there}"


def blocks(net: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The parts that follow one another, by name: plain sequences are opened, everything else stays whole."""
    if type(net) is not nn.Sequential:
        return [(prefix, net)]
    return [block for name, part in net.named_children() for block in blocks(part, f"{prefix}.{name}".strip("."))]


def last_block(base: Base) -> str:
    """Where the layers begin that work at the size of the last feature map (VGG16: block5_conv1; ResNet: layer4).

    The last layer with weights alone, where the size never changes.
    """
    there = blocks(base.net)
    sides = out_sizes(base, [module for _, module in there])
    learns = [number for number, (_, module) in enumerate(there) if any(True for _ in module.parameters())]
    first = last = learns[-1]
    while first and sides[first - 1] == sides[last]:
        first -= 1
    first = next(number for number in learns if number >= first)
    return there[first if first != learns[0] else last][0]


def out_sizes(base: Base, modules: list[nn.Module]) -> list[tuple[int, ...]]:
    """Height and width of what comes out of each of these for one picture of the base's own size."""
    found: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        shape = output.shape
        last = shape[1] == shape[2] != shape[3]  # Swin has its channels last
        found[module] = tuple(shape[1:3] if last else shape[2:])

    hooks = [module.register_forward_hook(note) for module in modules]
    with torch.no_grad():
        base.net.eval()(torch.zeros(1, base.channels, *base.size))
    for hook in hooks:
        hook.remove()
    return [found[module] for module in modules]
