"""Networks and weights of timm and torchvision: found offline, identified by digest, with a new last layer."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from support.trainings import TASK, commit_drops, context_of, plan_of, samples
from torchvision import models

from retrain.config.loading import load_task
from retrain.config.recipe import L2Init, Recipe, ShrinkPerturb, Warm
from retrain.config.task import Data, Model, Task
from retrain.errors import ModelError, TaskError
from retrain.models.factory import build_network, check_network
from retrain.models.pretrained import body_weights, read_pretrained, resolve_task
from retrain.pipeline import next_run, stages
from retrain.pipeline.planning import Request
from retrain.recipe.initialization import initialize
from retrain.store import LocalStore, open_store
from retrain.store.task_store import TaskStore
from retrain.training.setup import Parent, set_up

TINY = "timm/test_resnet.r160_in1k"


def weights_of(folder: Path, name: str = "test_resnet", classes: int = 10, seed: int = 1) -> Path:
    """Save a timm network's weights, and return the path of the file."""
    torch.manual_seed(seed)
    path = folder / "weights.safetensors"
    save_file(timm.create_model(name, num_classes=classes).state_dict(), path)
    return path


def task_with(**model: object) -> Task:
    return Task.model_validate({"name": "pets", "model": model})


def small(pretrained: Path, **parts: object) -> Task:
    """Return a task with images of 32x32 pixels and a timm network that starts from a file of weights."""
    model = Model(name=TINY, pretrained=str(pretrained))
    data = Data(image_size=32, crop_padding=1, val_share=0.2, test_share=0.2)
    training = TASK.training.model_copy(update={"epochs": 2, "save_seconds": 60})
    return resolve_task(Task(name="pets", model=model, data=data, training=training, **parts))


def body(task: Task, classes: int = 5) -> dict[str, torch.Tensor]:
    return body_weights(build_network(task.model, classes, 32, 0), Path(str(task.model.pretrained)).read_bytes())


def test_timm_networks_set_image_size_and_normalization() -> None:
    task = resolve_task(task_with(name=TINY))
    assert (task.data.image_size, task.data.mean, task.data.std) == (160, (0.5,) * 3, (0.5,) * 3)
    assert task.model.stem == "standard"
    with_size = resolve_task(Task.model_validate({"name": "pets", "model": {"name": TINY}, "data": {"image_size": 64}}))
    assert (with_size.data.image_size, with_size.data.std) == (64, (0.5,) * 3)


def test_pretrained_torchvision_networks_set_image_size(tmp_path: Path) -> None:
    given = task_with(name="resnet18", pretrained=str(weights_of(tmp_path)))
    task = resolve_task(given)
    assert (task.data.image_size, task.data.mean) == (224, (0.485, 0.456, 0.406))
    assert resolve_task(task_with(name="resnet18")).data == Data()


@pytest.mark.parametrize(("given", "read"), [("0" * 64, "0" * 64), ("null", None)])
def test_digest_of_digits_in_an_override_stays_text(tmp_path: Path, given: str, read: str | None) -> None:
    (tmp_path / "pets.yaml").write_text("name: pets\n")
    task = load_task(str(tmp_path / "pets.yaml"), [f"model.pretrained_sha256={given}"])
    assert task.model.pretrained_sha256 == read


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_efficientnet"])
def test_timm_networks_take_the_tasks_classes_and_size(name: str) -> None:
    network = build_network(Model(name=f"timm/{name}", stem="standard"), 3, 64, seed=0).eval()
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "repvit_m0_9"])
def test_every_classifier_of_a_distilled_network_is_new(tmp_path: Path, name: str) -> None:
    task = task_with(name=f"timm/{name}", stem="standard", pretrained=str(weights_of(tmp_path, name, classes=7)))
    network = build_network(task.model, 5, 224, seed=0)
    taken = body_weights(network, Path(str(task.model.pretrained)).read_bytes())
    new = {key.rpartition(".")[0] for key in network.state_dict() if key not in taken}
    assert new == {
        key.rpartition(".")[0] for key, each in network.state_dict().items() if len(each.shape) and len(each) == 5
    }
    assert len(new) == 2


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvisions_inception_networks_have_one_output(tmp_path: Path, name: str) -> None:
    """The published weights also have auxiliary classifiers.

    With published weights, the network normalizes the images itself.
    """
    published = models.get_model(name, num_classes=7, init_weights=False, aux_logits=True)
    save_file(published.state_dict(), tmp_path / "weights.safetensors")
    model = Model(name=name, pretrained=str(tmp_path / "weights.safetensors"), stem="standard")
    check_network(model, 5, 299, (tmp_path / "weights.safetensors").read_bytes())
    assert build_network(model, 5, 299, seed=0).transform_input is True


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/no_such_net", r"timm has no model 'no_such_net'; `timm\.list_models\(\)` in Python lists them"),
        ("timm/convnext_tinny.fb_in1k", r"did you mean timm/convnext_tiny\.fb_in1k\?"),
        ("timm/convnext_tiny.fb_in99k", r"fb_in99k.*; did you mean timm/convnext_tiny\.fb_in1k\?"),
    ],
)
def test_unknown_timm_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=rf"model\.name: .*{message}"):
        build_network(Model(name=name, stem="standard"), 3, 64, seed=0)


def test_weights_in_hugging_faces_cache_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, revision = weights_of(tmp_path, classes=1000), "a" * 40
    cached = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (cached / "snapshots" / revision).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    path.rename(cached / "snapshots" / revision / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    task = resolve_task(task_with(name=TINY, pretrained="hf-cache"))
    assert task.model.pretrained_sha256 == small(weights_of(tmp_path, classes=1000)).model.pretrained_sha256


def test_pretrained_weights_are_pinned_and_copied_to_the_store(tmp_path: Path) -> None:
    path, store = weights_of(tmp_path), TaskStore(LocalStore(tmp_path / "store"), "pets")
    task = small(path)
    assert task.model.pretrained_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_pretrained(store, task) == path.read_bytes()
    assert not list(store.objects.list(""))  # only storing a plan copies the weights
    data = read_pretrained(store, task, keep=True)
    path.unlink()
    assert read_pretrained(store, task) == data
    moved = task.model.model_copy(update={"pretrained": "elsewhere.safetensors"})
    assert plan_of(task).run_id == plan_of(task.model_copy(update={"model": moved})).run_id
    other = task.model.model_copy(update={"pretrained_sha256": "0" * 64})
    assert plan_of(task).run_id != plan_of(task.model_copy(update={"model": other})).run_id


def test_web_address_of_weights_is_refused_with_advice() -> None:
    model = {"name": TINY, "pretrained": "https://example.com/tiny.safetensors"}
    with pytest.raises(ModelError, match=r"^model\.pretrained: https://.* download the file, and set its path"):
        resolve_task(Task.model_validate({"name": "pets", "model": model}))


def test_weights_in_a_store_are_found_by_address(tmp_path: Path, s3: str, bucket: str) -> None:
    path, folder = weights_of(tmp_path), f"s3://{bucket}/networks"
    open_store(folder, s3).write("tiny.safetensors", path.read_bytes())
    model = {"name": TINY, "pretrained": f"{folder}/tiny.safetensors"}
    task = resolve_task(Task.model_validate({"name": "pets", "endpoint_url": s3, "model": model}))
    assert task.model.pretrained_sha256 == small(path).model.pretrained_sha256
    missing = {**model, "pretrained": f"{folder}/none.safetensors"}
    with pytest.raises(ModelError, match="there is no such object"):
        resolve_task(Task.model_validate({"name": "pets", "endpoint_url": s3, "model": missing}))


def test_pretrained_errors_name_their_cause(tmp_path: Path) -> None:
    path = weights_of(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        small(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match=r"must be a \.safetensors file"):
        small(tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"hf download timm/test_resnet\.r160_in1k"):
        resolve_task(task_with(name=TINY, pretrained="hf-cache"))
    with pytest.raises(
        ModelError, match=r"timm lists no weights of timm/gcvit_xxtiny\.in1k on Hugging Face: set it to"
    ):
        resolve_task(task_with(name="timm/gcvit_xxtiny.in1k", pretrained="hf-cache"))
    wrong = task_with(name=TINY, pretrained=str(path), pretrained_sha256="0" * 64)
    with pytest.raises(TaskError, match="SHA-256"):
        read_pretrained(TaskStore(LocalStore(tmp_path / "store"), "pets"), resolve_task(wrong))
    with pytest.raises(ModelError, match=r"conv.* in the file, .* in the network"):
        body_weights(timm.create_model("test_resnet", num_classes=3, in_chans=1), path.read_bytes())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, each: (f"module.{name}", each), r"remove the prefix module\. from all names in the file$"),
        (lambda name, each: (name, each.to(torch.int8)), r"has the type torch\.int8, and quantized"),
        (lambda name, each: (name, each / 0), r"contains NaN or infinity"),
    ],
)
def test_weights_that_cannot_be_trained_are_refused(
    tmp_path: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]], message: str
) -> None:
    task = task_with(name="resnet18", options={"width": 4}, pretrained=str(tmp_path / "weights.safetensors"))
    state = build_network(task.model, 5, 32, 0).state_dict()
    save_file(dict(change(name, each) for name, each in state.items()), tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=message):
        body(task)


@pytest.mark.parametrize(("trained", "expected"), [("small", "standard"), ("standard", "small")])
def test_weights_of_another_stem_name_the_setting(tmp_path: Path, trained: str, expected: str) -> None:
    given = {"name": "resnet18", "options": {"width": 4}}
    file = tmp_path / "weights.safetensors"
    save_file(build_network(Model.model_validate({**given, "stem": trained}), 5, 32, 0).state_dict(), file)
    # without `stem`, a pretrained network has the standard stem
    chosen = resolve_task(
        task_with(**given, pretrained=str(file), **({"stem": "small"} if expected == "small" else {}))
    )
    assert chosen.model.stem == expected
    with pytest.raises(ModelError, match=rf"conv1\.weight is .*; set model\.stem to {trained}, which the weights have"):
        body(chosen)
    body(resolve_task(task_with(**given, pretrained=str(file), stem=trained)))
    other = task_with(name="resnet34", stem=trained, options={"width": 4}, pretrained=str(file))
    with pytest.raises(ModelError, match=r"; use weights of this network$"):
        body(other)


def test_missing_weights_are_read_from_the_store_by_digest(tmp_path: Path) -> None:
    path, store = weights_of(tmp_path), TaskStore(LocalStore(tmp_path / "store"), "pets")
    task = small(path)
    data = read_pretrained(store, task, keep=True)
    path.unlink()
    with pytest.raises(
        ModelError, match=r"cannot be read: No such file.* set model\.pretrained_sha256 to this SHA-256"
    ):
        small(path)
    pinned = task_with(name=TINY, pretrained=str(path), pretrained_sha256=task.model.pretrained_sha256)
    assert read_pretrained(store, resolve_task(pinned)) == data


def test_scratch_starts_with_pretrained_weights_and_a_new_head(tmp_path: Path) -> None:
    task = small(
        weights_of(tmp_path, classes=5)
    )  # the last layer is replaced even if the number of classes is the same
    network, pretrained = build_network(task.model, 5, 32, 0), body(task)
    head = network.fc.weight.detach().clone()
    initialize(plan_of(task).recipe.initialization, network, None, pretrained)
    assert not {name for name in pretrained if name.startswith("fc.")}
    for name, tensor in pretrained.items():
        assert torch.equal(network.state_dict()[name], tensor), name
    assert torch.equal(network.fc.weight, head)


def test_shrinking_goes_towards_the_pretrained_weights(tmp_path: Path) -> None:
    """With alpha 0.5, weights become the mean of the parent's and the pretrained weights. The head is halved."""
    task = small(weights_of(tmp_path))
    old, network = build_network(task.model, 3, 32, 7).state_dict(), build_network(task.model, 5, 32, 8)
    pretrained = body(task)
    initialize(ShrinkPerturb(alpha=0.5, beta=0.0, least_norm=0.4), network, old, pretrained)
    for name, parameter in network.named_parameters():
        if name in pretrained:
            torch.testing.assert_close(parameter, (old[name] + pretrained[name]) / 2)
    torch.testing.assert_close(network.fc.weight[:3], old["fc.weight"] / 2)
    batches = [buffer for name, buffer in network.named_buffers() if name.endswith("num_batches_tracked")]
    assert batches  # the counters of BatchNorm start at 0
    assert not any(batches)


@pytest.mark.parametrize("anchor", ["fresh", "origin"])
def test_l2_init_is_anchored_at_the_pretrained_weights(tmp_path: Path, anchor: str) -> None:
    """Check that a step with only the penalty moves the weights towards the pretrained weights."""
    task = small(weights_of(tmp_path))
    recipe = Recipe(initialization=Warm(), objective=L2Init(anchor=anchor, strength=1.0))
    plan = plan_of(task.model_copy(update={"recipe": recipe}), "continuous", known=1, parent="scratch-0")
    network = build_network(task.model, 5, 32, seed=3)
    train, val = samples([160], 5), samples([100], 5, seed=2)
    pretrained = body(task)
    run = set_up(plan, train, val, Parent(network.state_dict(), None), pretrained=pretrained)
    for parameter in run.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    run.change_gradients(0)
    for name, parameter in run.network.named_parameters():
        if name in pretrained:
            torch.testing.assert_close(parameter.grad, 2 * (parameter.detach() - pretrained[name]))


def test_pretrained_task_trains_continues_and_promotes(tmp_path: Path) -> None:
    commit_drops(tmp_path)
    path = weights_of(tmp_path)
    context = context_of(tmp_path)
    task = small(path, store=str(tmp_path / "store"))
    first = stages.plan(context, task, Request())
    path.unlink()  # the store has a copy now
    assert stages.run_plan(context, first).outcome == "completed"
    assert "the pretrained ones, with a new head" in first.start
    second = next_run.plan_next_run(context.store, task, Request("continuous", "trial"))
    assert "What training changed in the pretrained weights is shrunk to" in second.start
    next_run.keep_plan(context.store, second)
    assert stages.run_plan(context, second).result.iterations == second.iterations


def test_weights_that_do_not_fit_are_refused_before_planning(tmp_path: Path) -> None:
    commit_drops(tmp_path)
    context = context_of(tmp_path)
    task = small(weights_of(tmp_path, "test_convnext"), store=str(tmp_path / "store"))
    with pytest.raises(ModelError, match=r"conv1\.0\.weight is missing in the file"):
        stages.plan(context, task, Request())
    assert not list(context.store.objects.folders("pets/runs/"))
