"""The Kubeflow pipeline: its definition and thin components. Installed as `retrain.pipelines`."""

from retrain.utils.extras import require_extra

require_extra("kfp", "A Kubeflow pipeline")
