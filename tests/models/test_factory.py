"""Tests of networks by name: torchvision's, variants of them, and users' factories. Messages name each mistake."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from retrain.config.task import Model
from retrain.errors import ModelError
from retrain.models.factory import (
    build_network,
    check_network,
    has_normalization,
    is_installed,
    output_change,
    to_device_channels_last,
    weight_scale,
)
from retrain.models.resnets import RESNETS


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in network.parameters()]


def state(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


class Two(nn.Linear):
    """A network that returns its logits twice."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return images, images


def huge(classes: int, image_size: int) -> nn.Module:
    """Raise torch's error for a network that no machine has the memory for."""
    return nn.Linear(10**16, classes)


def two_outputs(classes: int, image_size: int) -> nn.Module:
    return Two(1, 1)


def lazy(classes: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def frozen(classes: int, image_size: int) -> nn.Module:
    return scaled_linear(classes, image_size).requires_grad_(False)


def not_copyable(classes: int, image_size: int) -> nn.Module:
    network = scaled_linear(classes, image_size)
    network.norm = network[1].weight.norm()  # a tensor in the graph of gradients
    return network


def wrong_width(classes: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, classes + 1))


def scaled_linear(classes: int, image_size: int, scale: float = 1.0) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, classes))
    nn.init.constant_(network[1].weight, scale)
    return network


def divides_by_zero(**given: object) -> nn.Module:
    return nn.Linear(1, 1 // 0)


def no_module(classes: int, image_size: int) -> str:
    return "network"


HERE = __name__


@pytest.mark.parametrize("name", RESNETS)
def test_standard_resnet_equals_torchvisions_bit_for_bit(name: str) -> None:
    ours = build_network(Model(name=name, stem="standard"), classes=10, image_size=64, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = torchvision.models.get_model(name, num_classes=10)
    assert list(state(ours)) == list(state(theirs))
    assert all(torch.equal(tensor, state(theirs)[key]) for key, tensor in state(ours).items())
    assert str(ours) == str(theirs)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_small_stem_keeps_the_resolution() -> None:
    network = build_network(Model(name="resnet18"), classes=10, image_size=32, seed=0)
    seen: list[tuple[int, ...]] = []
    network.get_submodule("layer1").register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    network(torch.zeros(2, 3, 32, 32))
    assert seen == [(2, 64, 32, 32)]
    standard = shapes(build_network(Model(name="resnet18", stem="standard"), classes=10, image_size=64, seed=0))
    assert shapes(network) == [(64, 3, 3, 3), *standard[1:]]


def test_width_is_the_number_of_channels_of_the_first_stage() -> None:
    thin = build_network(Model(name="resnet18", options={"width": 16}), classes=7, image_size=32, seed=0)
    full = build_network(Model(name="resnet18"), classes=7, image_size=32, seed=0)
    quarter = [tuple(size // 4 if size >= 64 else size for size in shape) for shape in shapes(full)]
    assert shapes(thin) == quarter


def test_bottlenecks_of_another_width_grow_fourfold() -> None:
    network = build_network(Model(name="resnet50", options={"width": 8}), classes=7, image_size=32, seed=0)
    assert shapes(network)[-2:] == [(7, 8 * 8 * 4), (7,)]


def test_mlp_and_logistic_regression_have_ash_and_adams_shapes() -> None:
    assert shapes(build_network(Model(name="mlp"), classes=10, image_size=32, seed=0)) == [
        *[(100, 3072), (100,), (100, 100), (100,)],
        *[(10, 100), (10,)],
    ]
    assert shapes(build_network(Model(name="logistic"), classes=10, image_size=8, seed=0)) == [(10, 192), (10,)]
    wide = build_network(Model(name="mlp", options={"width": 20}), classes=3, image_size=8, seed=0)
    assert shapes(wide)[0] == (20, 192)


def test_torchvision_classifiers_are_built_by_name() -> None:
    network = build_network(Model(name="squeezenet1_1", stem="standard", options={"dropout": 0.25}), 12, 32, seed=0)
    assert isinstance(network, torchvision.models.SqueezeNet)
    assert network.classifier[0].p == 0.25
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 12)


def test_users_factory_gets_classes_image_size_and_options() -> None:
    network = build_network(
        Model(name=f"{HERE}:scaled_linear", options={"scale": 0.5}), classes=4, image_size=8, seed=0
    )
    assert shapes(network) == [(4, 192), (4,)]
    assert state(network)["1.weight"].unique().tolist() == [0.5]


def test_seed_sets_weights_and_keeps_global_random_state() -> None:
    model = Model(name="resnet18", options={"width": 4})
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (state(build_network(model, 5, 8, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_channels_last_changes_only_the_memory_order() -> None:
    network = build_network(Model(name="resnet18", options={"width": 4}), 5, 8, seed=0)
    before = {key: tensor.clone() for key, tensor in state(network).items()}
    placed = state(to_device_channels_last(network, torch.device("cpu")))
    assert placed["layer1.0.conv1.weight"].is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, placed[key]) for key, tensor in before.items())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Model(name="resnet19"),
            "model.name: there is no model 'resnet19'; allowed: mlp, logistic, mixer, a torchvision",
        ),
        (Model(name="resnet81"), r"there is no model 'resnet81'; .*; did you mean resnet18\?$"),
        (Model(name="fcn_resnet50"), "there is no model 'fcn_resnet50'"),
        (
            Model(name="squeezenet1_1"),
            "model.stem: small exists only for resnet18, .*; set `stem: standard` for squeezenet",
        ),
        (
            Model(name="resnet18", options={"widht": 4}),
            r"^model\.options\.widht: resnet18 has no such option; allowed: width, norm; did you mean .*\.width\?$",
        ),
        (
            Model(name="squeezenet1_1", stem="standard", options={"drop": 0.5}),
            r"^model\.options\.drop: squeezenet1_1 has no such option; allowed: version, dropout; did you mean",
        ),
        (
            Model(name="timm/test_resnet.r160_in1k", stem="standard", options={"drop_ratee": 0.5}),
            r"^model\.options\.drop_ratee: timm/test_resnet.* did you mean model\.options\.drop_rate",
        ),
        (
            Model(name=f"{HERE}:scaled_linear", options={"scales": 0.5}),
            r"^model\.options\.scales: test_factory:scaled_linear has no such option; allowed: scale; did you mean",
        ),
        (
            Model(name="resnet18", options={"width": -1}),
            r"options \{'width': -1\} do not fit: width must be .* at least 1",
        ),
        (Model(name="resnet18", options={"width": 0}), "do not fit: width must be a whole number of at least 1, not 0"),
        (Model(name="resnet18", options={"width": "8"}), "do not fit: width must be a whole number .* not '8'"),
        (Model(name="resnet18", options={"width": True}), "do not fit: width must be a whole number .* not True"),
        (Model(name="mixer", options={"patch": 0}), "do not fit: patch must be a whole number of at least 1, not 0"),
        (Model(name="mixer", options={"depth": -1}), "do not fit: depth must be a whole number of at least 1, not -1"),
        (Model(name="resnet18", options={"classes": 4}), r"^model\.options\.classes: cannot be an option: remove it"),
        (
            Model(name="timm/test_resnet.r160_in1k", stem="standard", options={"checkpoint_path": "a.pth"}),
            r"^model\.options\.checkpoint_path: cannot be an option: .* model\.pretrained the initial weights$",
        ),
        (Model(name="mlp", options={"width": "8"}), "do not fit: width must be a whole number .* not '8'"),
        (
            Model(name="logistic", options={"width": 4}),
            r"^model\.options\.width: logistic has no such option; allowed: none$",
        ),
        (Model(name="alexnet", stem="standard"), "alexnet: does not accept 8x8 images: .*too small"),
        (
            Model(name="nowhere:factory"),
            "model.name: cannot import 'nowhere:factory': No module named 'nowhere'; .* PYTHONPATH",
        ),
        (Model(name="torch.nn:Lineal"), "model.name: cannot import 'torch.nn:Lineal': .*no attribute"),
        (Model(name=":factory"), "model.name: cannot import ':factory'"),
        (Model(name=f"{HERE}:HERE"), "is not callable: name a function"),
        (
            Model(name="mlp", options={"width": 10**13}),
            r"needs more memory than this machine has: reduce model\.options \({'width': 10000000000000}\) or data",
        ),
        (
            Model(name=f"{HERE}:huge"),
            r"this machine has: reduce data\.image_size \(8x8\), or choose a smaller network in model\.name$",
        ),
        (Model(name=f"{HERE}:divides_by_zero"), "divides_by_zero: cannot be built: integer division"),
        (Model(name=f"{HERE}:no_module"), "the factory returned str, not a torch.nn.Module"),
        (Model(name=f"{HERE}:two_outputs"), r"returns tuple for 2 images and 4 classes; it must return \[2, 4\]"),
        (Model(name=f"{HERE}:wrong_width"), r"returns \[2, 5\] for 2 images and 4 classes; it must return \[2, 4\]"),
        (Model(name=f"{HERE}:lazy"), r"the shape of 1\.weight is unknown, because its layer is lazy: state the shape"),
        (Model(name=f"{HERE}:frozen"), "has no parameter that can be trained: set requires_grad to True"),
        (
            Model(name=f"{HERE}:not_copyable"),
            r"copy\.deepcopy cannot copy the network: Only Tensors created explicitly",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Model) else "",
)
def test_impossible_network_is_refused_with_a_message(model: Model, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_network(model, classes=4, image_size=8)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def net(:\n", r"invalid syntax \(broken\.py, line 1\)$"),
        ("import math\nraise RuntimeError('no key')\n", r"no key \(RuntimeError, \S+/broken\.py, line 2\)$"),
        ("import math\n\nNET = {}['net']\n", r"'net' \(KeyError, \S+/broken\.py, line 3\)$"),
        ("import nowhere\n", r"named 'nowhere' \(ModuleNotFoundError, \S+/broken\.py, line 1\); install its package"),
    ],
)
@pytest.mark.parametrize("module", ["broken", "package.broken"])
def test_broken_module_of_a_factory_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str, module: str
) -> None:
    file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(exist_ok=True)
    file.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=rf"cannot import '{module}:net': .*{message}"):
        check_network(Model(name=f"{module}:net"), classes=4, image_size=8)


def test_package_that_raises_counts_as_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for a module in a package imports the package."""
    (tmp_path / "raising").mkdir()
    (tmp_path / "raising" / "__init__.py").write_text("raise RuntimeError('no key')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed(Model(name="raising.nets:net"))


@pytest.mark.parametrize(
    ("name", "stem", "expected"),
    [("resnet18", "small", True), ("mobilenet_v3_small", "standard", True), ("mlp", "small", False)],
)
def test_has_normalization_finds_the_layers_of_named_networks(name: str, stem: str, expected: bool) -> None:
    assert has_normalization(build_network(Model(name=name, stem=stem), 3, 32, seed=0)) is expected


def test_weight_scale_is_the_scale_of_the_smallest_layer() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([0.3, -0.4]).repeat(3, 2))
        network[2].weight.fill_(2.0)
        network[1].weight.zero_()
    assert weight_scale(network) == pytest.approx(math.sqrt((0.3**2 + 0.4**2) / 2))
    assert weight_scale(nn.BatchNorm1d(3)) is None
    with torch.no_grad():
        network[2].weight.fill_(math.nan)
    assert weight_scale(network) is None, "records are JSON, and JSON has no NaN"


def test_output_change_adds_up_the_layers_of_a_perceptron() -> None:
    network = build_network(Model(name="mlp", options={"width": 4}), 3, 2, seed=0)
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer, scale in zip(layers, (0.5, 0.2, 0.1), strict=True):
            layer.weight.fill_(scale)
    inputs = 3 * 2 * 2
    assert output_change(network) == pytest.approx(math.sqrt(inputs) / 0.5 + 2 / 0.2 + 2 / 0.1)
    with torch.no_grad():
        layers[1].weight.fill_(math.inf)
    assert output_change(network) is None, "records are JSON, and JSON has no infinity"


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3, elementwise_affine=False), nn.Linear(3, 2)),
        nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 2)]),  # its own code could do anything between the layers
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2, 2)),
        nn.Identity(),
    ],
)
def test_output_change_is_unknown_for_other_networks(network: nn.Module) -> None:
    assert output_change(network) is None


def test_has_normalization_finds_only_batchnorm() -> None:
    for layer, expected in [(nn.BatchNorm1d(4), True), (nn.SyncBatchNorm(4), True), (nn.GroupNorm(2, 4), False)]:
        assert has_normalization(nn.Sequential(nn.Linear(4, 4), layer)) is expected
