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

from dlrun.core.errors import UserError, format_names
from dlrun.models.pretrained import weights as files
from dlrun.models.pretrained.earlier_run import load_run_model

log = logging.getLogger("dlrun")

HEAD_NAMES = (
    "avgpool",
    "dropout",
    "flatten",
    "fc",
    "classifier",
    "head",
    "heads",
)  # the first of them begins the head
AUXILIARY_NAMES = ("aux1", "aux2", "AuxLogits")
HALF_NORMALIZED = (
    "inception_v3",
    "googlenet",
)  # published weights that want (x - .5) / .5; torchvision converts to it inside
POOLING_LAYERS = (nn.AdaptiveAvgPool2d, nn.Dropout, nn.Flatten, nn.Identity)


@dataclass(frozen=True)
class Backbone:
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


def load_backbone(architecture: str, weights: str | None, column: str) -> Backbone:
    """The base that these two name. weights: of torchvision, a file, a run folder (whose base it is then), or none.

    column: the input that it is for, where a run has several towers. Raises UserError.
    """
    if weights is not None and Path(weights).is_dir():
        return load_run_backbone(Path(weights), column)
    return load_torchvision_backbone(architecture, weights)


def load_torchvision_backbone(architecture: str, weights: str | None) -> Backbone:
    """A network of torchvision without its head."""
    from torchvision import models

    there = [name for name in models.list_models(module=models) if not name.startswith("vit_")]
    if architecture not in there:
        raise UserError(describe_unknown_model(architecture, there))
    choices = models.get_model_weights(architecture)
    entry = find_weights_entry(architecture, weights, choices)
    net = models.get_model(architecture, **get_init_options(architecture, weights))
    base = remove_head(net, architecture)
    if weights is not None and files.needs_weights():
        load_backbone_weights(
            net, base, Path(weights) if entry is None else files.find_weights(architecture, entry)
        )
    wants = (entry or choices.DEFAULT).transforms()
    mean, std = (
        ((0.5,) * 3, (0.5,) * 3)
        if architecture in HALF_NORMALIZED
        else (tuple(wants.mean), tuple(wants.std))
    )
    return Backbone(architecture, base, 3, (wants.crop_size[0],) * 2, mean, std)


def describe_unknown_model(architecture: str, there: list[str]) -> str:
    """The message for a name that cannot be had."""
    if architecture.startswith("vit_"):
        return f"architecture={architecture} has no convolutional part; those that have: {format_names(there)}"
    near = difflib.get_close_matches(architecture.lower(), there, 1)
    guess = f": did you mean {near[0]}?" if near else "."
    return f"no architecture '{architecture}'{guess} There are: {format_names(there, architecture)}"


def find_weights_entry(architecture: str, weights: str | None, choices: Any) -> Any:
    """The member of the weights enum that is meant; None where a file, or nothing, is. Raises UserError."""
    if weights is None:
        return None
    if Path(weights).is_file():
        log.info("weights: %s", weights)
        return None
    if weights in choices.__members__:
        return choices[weights]
    if not files.needs_weights() and weights.endswith(".pth"):
        return None  # it is gone, and nobody needs it
    raise UserError(
        f"weights={weights} is neither weights of {architecture} ({', '.join(choices.__members__)}), "
        "nor a file, nor the folder of a run"
    )


def get_init_options(architecture: str, weights: str | None) -> dict[str, Any]:
    """How to build a network without drawing starting weights in vain, which takes VGG seconds."""
    slow = architecture in HALF_NORMALIZED or (
        architecture.startswith("vgg") and weights is not None
    )
    return {"init_weights": False} if slow else {}


def remove_head(net: nn.Module, architecture: str) -> nn.Sequential:
    """The layers of a torchvision network up to its head, by their own names."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, part in net.named_children():
        if name in HEAD_NAMES:
            break
        if name not in AUXILIARY_NAMES:
            parts[name] = nn.Sequential(*part) if isinstance(part, nn.ModuleList) else part
    if architecture.startswith("densenet"):
        parts["relu"] = nn.ReLU()  # its forward has it between the two
    return nn.Sequential(parts)


def load_backbone_weights(net: nn.Module, base: nn.Sequential, path: Path) -> None:
    """Give a network's base the weights of a file; a head in it is left out. Raises UserError where they do not fit."""
    wanted = set(base.state_dict())
    state = files.load_weight_file(path)
    for key in list(state):
        # DenseNet's files have the names of an older torchvision
        name = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", key)
        value = state.pop(key)
        if name in wanted:
            state[name] = value
    if absent := sorted(
        wanted - set(state) - {key for key in wanted if key.endswith("num_batches_tracked")}
    ):
        raise UserError(
            f"{path} are weights of another network: it has no {absent[0]} ({len(absent)} are missing)"
        )
    try:
        net.load_state_dict(
            state, strict=False
        )  # by the whole network, which knows its older formats
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())
        raise UserError(f"{path} are weights of another network: {reason[:200]}") from error


def load_run_backbone(folder: Path, column: str) -> Backbone:
    """The convolutional part of the model of an earlier run."""
    found = load_run_model(folder, answers=False)
    towers = found.model.image_towers()
    if not towers:
        raise UserError(
            f"weights={folder}: the model of that run has no convolutional part to stand on"
        )
    if column not in towers and len(towers) > 1:
        raise UserError(
            f"weights={folder}: that run has no input '{column}', but {', '.join(towers)}"
        )
    column = column if column in towers else next(iter(towers))
    channels, *size = found.spec.inputs[column].shape
    layers = list(towers[column].named_children())
    while layers and isinstance(layers[-1][1], POOLING_LAYERS):
        layers.pop()
    log.info("weights: the convolutional part of %s", folder)
    net, own = nn.Sequential(OrderedDict(layers)), (folder, found.job.name)
    return Backbone(f"the model of {folder}", net, channels, (size[0], size[1]), run=own)


def freeze_layers(base: Backbone, unfreeze: str) -> list[nn.Module]:
    """Let only the layers from `unfreeze` on learn; answers with those that do not.

    unfreeze: none, all, last_block, or the name of a layer of the base. Raises UserError for any other name.
    """
    names = dict(base.net.named_modules())
    order = list(names.values())
    if unfreeze == "none":
        first = len(order)
    elif unfreeze == "all":
        first = 0
    else:
        name = find_last_block(base) if unfreeze == "last_block" else unfreeze
        if name not in names or not name:
            raise UserError(describe_unknown_layer(base, name, list(names)))
        first = list(names).index(name)
        log.info("unfrozen: %s, from %s on", base.name, name)
    learning = {
        id(weight) for module in order[first:] for weight in module.parameters(recurse=False)
    }
    for weight in base.net.parameters():
        weight.requires_grad = id(weight) in learning
    return order[:first]


def describe_unknown_layer(base: Backbone, name: str, names: list[str]) -> str:
    """The message for a layer that is not there."""
    near = difflib.get_close_matches(name, names, 1)
    guess = f": did you mean {near[0]}?" if near else "."
    there = ", ".join(block for block, _ in list_blocks(base.net))
    return f"unfreeze={name}: {base.name} has no such layer{guess} There are: none, last_block, all, {there}"


def list_blocks(net: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The parts that follow one another, by name: plain sequences are opened, everything else stays whole."""
    if type(net) is not nn.Sequential:
        return [(prefix, net)]
    return [
        block
        for name, part in net.named_children()
        for block in list_blocks(part, f"{prefix}.{name}".strip("."))
    ]


def find_last_block(base: Backbone) -> str:
    """Where the layers begin that work at the size of the last feature map (VGG16: block5_conv1; ResNet: layer4).

    The last layer with weights alone, where the size never changes.
    """
    there = list_blocks(base.net)
    sides = compute_output_sizes(base, [module for _, module in there])
    learns = [
        number for number, (_, module) in enumerate(there) if any(True for _ in module.parameters())
    ]
    first = last = learns[-1]
    while first and sides[first - 1] == sides[last]:
        first -= 1
    first = next(number for number in learns if number >= first)
    return there[first if first != learns[0] else last][0]


def compute_output_sizes(base: Backbone, modules: list[nn.Module]) -> list[tuple[int, ...]]:
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
