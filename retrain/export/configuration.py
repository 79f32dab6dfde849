"""Make config.json of an exported model: a description of its network, its input and its outputs."""

from typing import Any

from retrain import __version__
from retrain.config.frame import Fit
from retrain.models.factory import timm_arguments
from retrain.models.pretrained import TIMM
from retrain.records import ModelInput, Plan

RESIZED: dict[Fit, str] = {
    "crop": "to cover height and width, then the middle is cropped",
    "letterbox": "to lie within height and width; the rest is black",
    "stretch": "to height and width",
}
"""Descriptions, for readers of config.json, of how images are resized."""


def make_configuration(plan: Plan) -> dict[str, Any]:
    """Return the configuration in the fields of Hugging Face (`id2label`) and timm (`pretrained_cfg`, `model_args`)."""
    model, taken, classes = plan.task.model, ModelInput.of(plan), plan.dataset.classes
    of_timm = {"model_args": timm_arguments(model, plan.task.data.image_size)} if model.name.startswith(TIMM) else {}
    return {
        "architecture": model.name.removeprefix(TIMM),
        **of_timm,
        "num_classes": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: index for index, name in enumerate(classes)},
        "pretrained_cfg": {
            "input_size": list(taken.shape),
            "mean": list(taken.mean),
            "std": list(taken.std),
            "interpolation": taken.interpolation,
            "crop_pct": 1.0,
            "crop_mode": "center",
            "num_classes": len(classes),
            "label_names": list(classes),
        },
        "preprocessing": {
            "orientation": "made upright by the EXIF orientation",
            "depth": "pixels of 16 bits are scaled to 8 bits: value // 256",
            "background": taken.background,
            "color": "RGB",
            "height": taken.height,
            "width": taken.width,
            "resize": RESIZED[taken.fit],
            "interpolation": taken.interpolation,
            "scale": "pixel / 255",
            "mean": list(taken.mean),
            "std": list(taken.std),
            "layout": "float32 [N, 3, height, width]",
        },
        "model": model.model_dump(mode="json"),
        "retrain": {"version": __version__, "task": plan.task.name, "run_id": plan.run_id},
    }
