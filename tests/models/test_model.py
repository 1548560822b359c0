"""The contract of a model: what a module of one's own has as a `Model`, and what it keeps."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dlrun.core.types import Field, Spec
from dlrun.models.model import Model, as_model, build_model

SPEC = Spec({"x": Field("number", (3,))}, {"y": Field("number", (1,))})


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x)


class Penalized(Plain):
    steady = True

    def penalty(self):
        return self.layer.weight.square().sum()


class Named(nn.Module):
    """Its layers are called as hooks are."""

    def __init__(self):
        super().__init__()
        self.penalty, self.solve = nn.Linear(3, 2), nn.Linear(2, 1)

    def forward(self, x):
        return self.solve(self.penalty(x))


def test_law_a_module_of_ones_own_has_every_hook_and_keeps_its_weights_and_names():
    module = Plain()
    keys, result = list(module.state_dict()), module(torch.ones(2, 3))
    model = as_model(module)
    assert model is module and isinstance(model, Model) and isinstance(model, Plain)
    assert type(model).__name__ == "Plain" and type(model).__module__ == Plain.__module__
    assert list(model.state_dict()) == keys and torch.equal(model(torch.ones(2, 3)), result)
    assert model.penalty() is None and model.lr_factors() == {} and model.note == ""
    assert model.cacheable_networks() == {} == model.image_towers() and not model.steady
    assert (
        model.token_reader() is None and model.fit_weights(None, lambda *_: torch.ones(())) is None
    )
    assert type(Plain()) is Plain, "other modules of the class are left alone"


def test_a_hook_of_ones_own_comes_before_the_default():
    model = as_model(Penalized())
    assert model.penalty() == model.layer.weight.square().sum() and model.steady


def test_a_layer_that_is_called_as_a_hook_is_stays_the_layer():
    module = Named()
    result = module(torch.ones(2, 3))
    model = as_model(module)
    assert torch.equal(model(torch.ones(2, 3)), result)
    assert model.penalty is model.get_submodule("penalty")


def test_a_model_stays_as_it_is_and_a_copy_is_one_too():
    model = as_model(Plain())
    kind = type(model)
    assert as_model(model) is model and type(model) is kind
    copied = copy.deepcopy(model)
    assert type(copied) is kind and torch.equal(copied.layer.weight, model.layer.weight)


@pytest.mark.parametrize("kind", [nn.ModuleDict, SimpleNamespace])
def test_towers_are_the_children_of_a_module_dict_of_that_name(kind):
    module, tower = Plain(), nn.Conv2d(1, 1, 1)
    module.towers = nn.ModuleDict({"image": tower}) if kind is nn.ModuleDict else kind(image=tower)
    towers = as_model(module).image_towers()
    assert towers == ({"image": tower} if kind is nn.ModuleDict else {})


def test_every_model_that_is_built_is_a_model():
    built = build_model({"_target_": f"{__name__}.Plain"}, SPEC, (__name__.partition(".")[0],))
    assert isinstance(built, Model) and list(built.state_dict()) == ["layer.weight", "layer.bias"]
    assert built({"x": torch.ones(2, 3)})["y"].shape == (2, 1)
