"""The stages as a Kubeflow pipeline. Only this package, and the commands that use it, import kfp."""

from importlib.util import find_spec

from retrain.errors import UserError

if find_spec("kfp") is None:
    raise UserError("pipelines need kfp, which is not installed: pip install 'retrain[kfp]'")
