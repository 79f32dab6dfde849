"""Measure the stages from the upload of a drop to the metrics of its run: wall and processor time.

A watcher in this process commits a shard of digits and retrains the champion on it. Its store is first a folder, and
then a bucket of moto's S3 server over HTTP. The pipeline in processes (`kfp-local`) then does the same in a separate
store, and its record gives the times of its stages. The time of a stage excludes the stages within it. Processor time
includes subprocesses.

This file imports only the standard library at its top, because the process that validates a drop imports it again.
"""

import os
import tempfile
from pathlib import Path

TASK = Path(__file__).parents[1] / "tasks" / "digits.yaml"
BUCKET = "stages"
HERE, IN_KFP = "in process, a folder", "kfp-local, a folder"


def main() -> None:
    """Time all executions, and draw the times if `--picture` is given."""
    from lib.drop_stages import added_by_kfp, draw, time_in_kfp_local, time_in_process
    from lib.report import parser, report
    from lib.s3 import serving_moto

    from retrain.config.loading import load_task
    from retrain.experiments.datasets import write_digits

    options = parser(__doc__)
    options.add_argument("--set", action="append", default=[], help="setting of the task, as in training.epochs=5")
    options.add_argument("--picture", type=Path, help="SVG file to draw the times to")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrain-stages-") as folder, serving_moto(BUCKET):
        write_digits(Path(folder, "digits"))
        images = sorted(Path(folder, "digits").rglob("*.png"), key=lambda path: (path.stem, path.parent.name))
        executions = {
            HERE: (time_in_process, f"{folder}/store"),
            "in process, S3 over HTTP": (time_in_process, f"s3://{BUCKET}/store"),
            IN_KFP: (time_in_kfp_local, f"{folder}/kfp"),
        }
        taken = {}
        for number, (name, (time_drop, url)) in enumerate(executions.items()):
            os.environ["RETRAIN_CACHE"] = f"{folder}/cache-{number}"  # each execution starts with an empty cache
            taken[name] = time_drop(load_task(str(TASK), [*chosen.set, f"store={url}"]), images)
        report({**taken, "kfp-local adds, s of cpu": added_by_kfp(taken[HERE], taken[IN_KFP])}, chosen.output)
    if chosen.picture:
        draw(taken, chosen.picture)


if __name__ == "__main__":
    main()
