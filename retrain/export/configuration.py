"""config.json of an exported model: what the network is, what it takes, and what its outputs mean."""

from typing import Any

from retrain import __version__
from retrain.records import Plan

BICUBIC = "bicubic"
"""How `data.images` resizes."""


def make_configuration(plan: Plan) -> dict[str, Any]:
    """Return the configuration in the fields of Hugging Face (`id2label`) and timm (`pretrained_cfg`)."""
    model, data, classes = plan.task.model, plan.task.data, plan.dataset.classes
    return {
        "architecture": model.name.removeprefix("timm/"),
        "num_classes": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: index for index, name in enumerate(classes)},
        "pretrained_cfg": {
            "input_size": [3, data.image_size, data.image_size],
            "mean": list(data.mean),
            "std": list(data.std),
            "interpolation": BICUBIC,
            "crop_pct": 1.0,
            "crop_mode": "center",
            "num_classes": len(classes),
            "label_names": list(classes),
        },
        "preprocessing": {
            "color": "RGB",
            "height": data.image_size,
            "width": data.image_size,
            "resize": "the shorter side to the size, then the middle is cropped",
            "interpolation": BICUBIC,
            "scale": "pixel / 255",
            "mean": list(data.mean),
            "std": list(data.std),
            "layout": "float32 [N, 3, height, width]",
        },
        "model": model.model_dump(mode="json"),
        "retrain": {"version": __version__, "task": plan.task.name, "run_id": plan.run_id},
    }
