"""What a pretrained model starts from: the convolutional part of a torchvision network or a run."""

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

# a child of one of these names begins the head of a torchvision network
HEAD_NAMES = ("avgpool", "dropout", "flatten", "fc", "classifier", "head", "heads")
AUXILIARY_NAMES = ("aux1", "aux2", "AuxLogits")
# their published weights expect (x - .5) / .5; torchvision converts to it inside the network
HALF_NORMALIZED = ("inception_v3", "googlenet")
POOLING_LAYERS = (nn.AdaptiveAvgPool2d, nn.Dropout, nn.Flatten, nn.Identity)


@dataclass(frozen=True)
class Backbone:
    """Layers from images to a feature map.

    Attributes:
        name: For messages.
        net: The layers.
        channels: Of the images.
        size: Height and width of the images that the weights were trained on.
        mean: Of each channel, for the normalization that the weights expect; empty: pixels in [0,
            1].
        std: Of each channel.
        run: Folder and fit of the earlier run; None for a network of torchvision.
    """

    name: str
    net: nn.Sequential
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    run: tuple[Path, str] | None = None


def load_backbone(architecture: str, weights: str | None, column: str) -> Backbone:
    """Return a network without its head.

    Args:
        architecture: Name of a network of torchvision.
        weights: Name of torchvision's, a file, a run folder (whose network it is then), or None for
            random ones.
        column: Image input that it is for, where a run has several towers.

    Raises:
        UserError: There is no such network, or its weights cannot be had.
    """
    if weights is not None and Path(weights).is_dir():
        return load_run_backbone(Path(weights), column)
    return load_torchvision_backbone(architecture, weights)


def load_torchvision_backbone(architecture: str, weights: str | None) -> Backbone:
    """Return a network of torchvision without its head; see `load_backbone`."""
    from torchvision import models

    # a vision transformer has no feature map
    architectures = [
        name for name in models.list_models(module=models) if not name.startswith("vit_")
    ]
    if architecture not in architectures:
        raise UserError(describe_unknown_model(architecture, architectures))
    choices = models.get_model_weights(architecture)
    entry = find_weights_entry(architecture, weights, choices)
    net = models.get_model(architecture, **get_init_options(architecture, weights))
    # the names of the layers stay those of torchvision, see `unfreeze`
    base = remove_head(net, architecture)
    if weights is not None and files.needs_weights():
        path = Path(weights) if entry is None else files.find_weights(architecture, entry)
        load_backbone_weights(net, base, path)
    transforms = (entry or choices.DEFAULT).transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    if architecture in HALF_NORMALIZED:
        mean, std = (0.5,) * 3, (0.5,) * 3
    # crop sizes are single numbers: images are square
    return Backbone(architecture, base, 3, (transforms.crop_size[0],) * 2, mean, std)


def describe_unknown_model(architecture: str, architectures: list[str]) -> str:
    """Return the message for an unknown architecture."""
    if architecture.startswith("vit_"):
        return (
            f"architecture={architecture} has no convolutional part; "
            f"those that have: {format_names(architectures)}"
        )
    close = difflib.get_close_matches(architecture.lower(), architectures, 1)
    guess = f": did you mean {close[0]}?" if close else "."
    return (
        f"no architecture '{architecture}'{guess} "
        f"There are: {format_names(architectures, architecture)}"
    )


def find_weights_entry(architecture: str, weights: str | None, choices: Any) -> Any:
    """Return the member of torchvision's weights enum of this name.

    Args:
        architecture: Name of the network, for messages.
        weights: The name, a file, or None.
        choices: The enum.

    Returns:
        The member; None where `weights` is a file or None.

    Raises:
        UserError: It is neither.
    """
    if weights is None:
        return None
    if Path(weights).is_file():
        log.info("weights: %s", weights)
        return None
    if weights in choices.__members__:
        return choices[weights]
    if not files.needs_weights() and weights.endswith(".pth"):
        return None  # the file is gone, but the weights come from a checkpoint
    raise UserError(
        f"weights={weights} is neither weights of {architecture} "
        f"({', '.join(choices.__members__)}), nor a file, nor the folder of a run"
    )


def get_init_options(architecture: str, weights: str | None) -> dict[str, Any]:
    """Return options that avoid drawing starting weights in vain, which takes seconds for VGG."""
    skips = architecture in HALF_NORMALIZED or (
        architecture.startswith("vgg") and weights is not None
    )
    return {"init_weights": False} if skips else {}


def remove_head(net: nn.Module, architecture: str) -> nn.Sequential:
    """Return the layers of a torchvision network up to its head, by their own names."""
    children: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in net.named_children():
        if name in HEAD_NAMES:
            break
        if name not in AUXILIARY_NAMES:
            children[name] = nn.Sequential(*child) if isinstance(child, nn.ModuleList) else child
    if architecture.startswith("densenet"):
        # its forward calls the function between its features and its head
        children["relu"] = nn.ReLU()
    return nn.Sequential(children)


def load_backbone_weights(net: nn.Module, base: nn.Sequential, path: Path) -> None:
    """Load the weights of a file into a network's base; a head in it is left out.

    Args:
        net: The network.
        base: Its layers without the head.
        path: A file of weights.

    Raises:
        UserError: They do not fit.
    """
    expected = set(base.state_dict())
    state = files.load_weight_file(path)
    for key in list(state):
        # DenseNet's files have the names of an older torchvision
        name = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", key)
        value = state.pop(key)
        if name in expected:
            state[name] = value
    # older files have no counts of batches, which only a momentum of None would need
    counts = {key for key in expected if key.endswith("num_batches_tracked")}
    if missing := sorted(expected - set(state) - counts):
        raise UserError(
            f"{path} are weights of another network: it has no {missing[0]} "
            f"({len(missing)} are missing)"
        )
    try:
        # by the whole network, which knows its older formats
        net.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())
        raise UserError(f"{path} are weights of another network: {reason[:200]}") from error


def load_run_backbone(folder: Path, column: str) -> Backbone:
    """Return the convolutional part of the model of an earlier run.

    Args:
        folder: Of the run.
        column: Image input that it is for, where the run has several towers.

    Raises:
        UserError: The model has none for this input.
    """
    loaded = load_run_model(folder, answers=False)
    towers = loaded.model.image_towers()
    if not towers:
        raise UserError(
            f"weights={folder}: the model of that run has no convolutional part to stand on"
        )
    if column not in towers and len(towers) > 1:
        raise UserError(
            f"weights={folder}: that run has no input '{column}', but {', '.join(towers)}"
        )
    column = column if column in towers else next(iter(towers))
    # images of the earlier run tell what its network was trained with
    channels, *size = loaded.spec.inputs[column].shape
    layers = list(towers[column].named_children())
    # what makes a vector of the feature map is chosen anew
    while layers and isinstance(layers[-1][1], POOLING_LAYERS):
        layers.pop()
    log.info("weights: the convolutional part of %s", folder)
    net, run = nn.Sequential(OrderedDict(layers)), (folder, loaded.job.name)
    return Backbone(f"the model of {folder}", net, channels, (size[0], size[1]), run=run)


def freeze_layers(base: Backbone, unfreeze: str) -> list[nn.Module]:
    """Make only the layers from a certain one on trainable.

    Args:
        base: The layers.
        unfreeze: none, all, last_block, or the name of a layer.

    Returns:
        The modules that are frozen.

    Raises:
        UserError: There is no such layer.
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
    trainable = {
        id(weight) for module in order[first:] for weight in module.parameters(recurse=False)
    }
    for weight in base.net.parameters():
        weight.requires_grad = id(weight) in trainable
    return order[:first]


def describe_unknown_layer(base: Backbone, name: str, names: list[str]) -> str:
    """Return the message for an unknown layer."""
    close = difflib.get_close_matches(name, names, 1)
    guess = f": did you mean {close[0]}?" if close else "."
    blocks = ", ".join(block for block, _ in list_blocks(base.net))
    return (
        f"unfreeze={name}: {base.name} has no such layer{guess} "
        f"There are: none, last_block, all, {blocks}"
    )


def list_blocks(net: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Return name and module of parts that follow one another: sequences are opened, others not."""
    # a subclass may have a forward of its own
    if type(net) is not nn.Sequential:
        return [(prefix, net)]
    return [
        block
        for name, child in net.named_children()
        for block in list_blocks(child, f"{prefix}.{name}".strip("."))
    ]


def find_last_block(base: Backbone) -> str:
    """Return the name of the first layer at the size of the last feature map.

    VGG16: block5_conv1; ResNet: layer4. Where the size never changes, it is the last layer with
    weights.
    """
    blocks = list_blocks(base.net)
    sides = compute_output_sizes(base, [module for _, module in blocks])
    trainable = [
        index for index, (_, module) in enumerate(blocks) if any(True for _ in module.parameters())
    ]
    first = last = trainable[-1]
    while first and sides[first - 1] == sides[last]:
        first -= 1
    # an activation or pooling before it has no weights to unfreeze
    first = next(index for index in trainable if index >= first)
    return blocks[first if first != trainable[0] else last][0]


def compute_output_sizes(base: Backbone, modules: list[nn.Module]) -> list[tuple[int, ...]]:
    """Return height and width of each module's output, for one image of the base's own size."""
    sizes: dict[nn.Module, tuple[int, ...]] = {}

    def record(module: nn.Module, _: Any, output: Tensor) -> None:
        shape = output.shape
        # Swin has its channels last
        channels_last = shape[1] == shape[2] != shape[3]
        sizes[module] = tuple(shape[1:3] if channels_last else shape[2:])

    hooks = [module.register_forward_hook(record) for module in modules]
    with torch.no_grad():
        base.net.eval()(torch.zeros(1, base.channels, *base.size))
    for hook in hooks:
        hook.remove()
    return [sizes[module] for module in modules]
