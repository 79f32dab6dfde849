"""The stages as a Kubeflow pipeline: its definition and thin components. Installed as `retrain.pipelines`."""

from importlib.util import find_spec

from retrain.errors import UserError

if find_spec("kfp") is None:
    raise UserError("Kubeflow pipelines need kfp: pip install 'retrain-classifiers[kfp]'")
