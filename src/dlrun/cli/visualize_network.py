"""The network of `dlrun visualize`: a finished run, loaded and asked for its layers and images."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dlrun.cli.visualize_images import InputImage, load_selected_images, select_example_images
from dlrun.core.errors import UserError, format_names
from dlrun.core.run_folder import RunFolder
from dlrun.core.types import Batch
from dlrun.experiment.inference import get_run_device
from dlrun.interpret import attribution
from dlrun.interpret.model_summary import summarize_layers
from dlrun.interpret.target import AttributionTarget, check_class, find_target, select_output
from dlrun.models.pretrained.earlier_run import LoadedModel, load_run_model
from dlrun.report import interpretation as interpretation_plots

if TYPE_CHECKING:
    from dlrun.cli.visualize_request import VisualizeRequest


@dataclass(frozen=True)
class Interpretation:
    """A finished run's network, and what is asked about it.

    Attributes:
        net: The network.
        request: What was asked for.
        image: The input that is looked at.
        target: The target whose prediction is explained.
        device: Where the network runs.
        warning: What every plot must carry, such as SYNTHETIC.
        plugins: Packages that the config may instantiate.
    """

    net: LoadedModel
    request: VisualizeRequest
    image: str
    target: str
    device: torch.device
    warning: str
    plugins: tuple[str, ...]

    @cached_property
    def input_images(self) -> list[InputImage]:
        """The images that were named, or a few of the run's own."""
        selected = load_selected_images(
            self.net, self.image, self.request.images, self.request.rows, self.plugins
        )
        selected = selected or select_example_images(self.net, self.plugins)
        return [
            InputImage(
                image.text, {name: column.to(self.device) for name, column in image.batch.items()}
            )
            for image in selected
        ]

    @cached_property
    def zero_input(self) -> Batch:
        """One row of zeros."""
        return {
            name: column.to(self.device)
            for name, column in attribution.build_blank_batch(self.net.spec).items()
        }

    @cached_property
    def layer_names(self) -> list[attribution.LayerOutput]:
        """Every layer of the network that can be looked at."""
        return attribution.collect_layer_outputs(self.net.model, self.zero_input)

    def select_layers(
        self, default: Sequence[attribution.LayerOutput | None], missing: str
    ) -> list[attribution.LayerOutput]:
        """Return the layers that were asked for, or default ones.

        Args:
            default: The default layers; None for one that does not exist.
            missing: What the model lacks where there is none, for the message.

        Raises:
            UserError: For unknown layers, or where there is none.
        """
        layers = [self.get_layer(name) for name in self.request.layers] or [
            layer for layer in default if layer is not None
        ]
        if not layers:
            raise UserError(f"model={interpretation_plots.name_of(self.net.config)} {missing}")
        return layers

    def get_layer(self, name: str) -> attribution.LayerOutput:
        """Return a layer by the name that `dlrun explain` shows.

        Raises:
            UserError: Where there is no such layer, or it returns no tensor.
        """
        # dlrun explain shows the model itself by this name.
        path = "" if name == "(model)" else name
        for layer in self.layer_names:
            if layer.name == path:
                return layer
        names = [layer.name for layer in summarize_layers(self.net.model, self.zero_input)]
        matches = difflib.get_close_matches(name, names, 1)
        hint = f": did you mean '{matches[0]}'?" if matches else "."
        problem = "returns no tensor of its own" if name in names else "is no layer of this network"
        raise UserError(f"'{name}' {problem}{hint} There are: {format_names(names, name)}")

    def get_target(self, batch: Batch) -> AttributionTarget:
        """Return the class that was asked for, or the predicted one."""
        with torch.no_grad():
            return select_output(
                self.net.spec, self.net.model(batch), self.target, self.request.label
            )

    def describe_target(self, target: AttributionTarget) -> str:
        """Format 'dog, which the network gives 0.93'."""
        return f"{target.label}, which the network gives {target.probability:.2f}"

    @property
    def image_branch(self) -> list[attribution.LayerOutput]:
        """The layers that see this image alone."""
        return attribution.select_image_layers(self.layer_names, self.net.model, self.image)


def load_network(
    folder: Path, plugins: tuple[str, ...], request: VisualizeRequest, fit: str = ""
) -> Interpretation:
    """Load the network of a run, frozen, onto the run's device or the best one here.

    Args:
        folder: The run folder.
        plugins: Packages that the config may instantiate.
        request: What was asked for.
        fit: Which of several fits; "" where there is one.

    Raises:
        UserError: For a run without images, or an unknown input, target or class.
    """
    net = load_run_model(folder, plugins, fit=fit, quiet=False)
    images = [name for name, field in net.spec.inputs.items() if field.kind == "image"]
    if not images:
        inputs = ", ".join(f"{field.kind} '{name}'" for name, field in net.spec.inputs.items())
        raise UserError(
            f"{folder} reads no images, so there is nothing to draw: its inputs are {inputs}"
        )
    if request.input and request.input not in images:
        raise UserError(
            f"no image '{request.input}' among the inputs. There are: {', '.join(images)}"
        )
    target = find_target(net.spec, request.target)
    check_class(net.spec, target, request.label)
    device = get_run_device(net.config)
    # Only images are optimized; gradients of weights would cost memory.
    net.model.requires_grad_(False).to(device)
    # A plot may be passed on without its run: it must say that the data were synthetic.
    warning = RunFolder(folder).read_data().get("synthetic", "")
    return Interpretation(
        net, request, request.input or images[0], target, device, warning, plugins
    )
