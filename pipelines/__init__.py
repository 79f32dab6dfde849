"""The stages as a Kubeflow pipeline. Only this package, and the commands that use it, import kfp."""

from importlib.util import find_spec

from retrain.errors import UserError

if find_spec("kfp") is None:
    raise UserError("Kubeflow pipelines need kfp: pip install 'retrain-classifiers[kfp]'")
