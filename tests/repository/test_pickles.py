"""No object of a store is unpickled. The test replaces each object by a pickle that would create a file."""

import pickle
from contextlib import suppress
from pathlib import Path

from support.workspaces import Workspace, make_task

from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.store import LocalStore

TASK = make_task()


class FileCreator:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_no_store_object_is_ever_unpickled(tmp_path: Path) -> None:
    created, workspace = tmp_path / "created", Workspace(LocalStore(tmp_path / "store"), tmp_path)
    payload = pickle.dumps(FileCreator(created))
    pickle.loads(payload)
    created.unlink()  # the pickle has created the file
    workspace.pack(0, 1)
    first = stages.run_task(workspace.context, TASK, Request())
    workspace.pack(1, 2, seed=1)
    workspace.store.objects.write(workspace.store.keys.run(first.run_id, "state/1"), payload)
    contents = workspace.contents()
    for key, before in contents.items():
        workspace.store.objects.write(key, payload)
        with suppress(Exception):  # any error is allowed, but the pickle must not be loaded
            stages.run_task(workspace.context, TASK, Request("continuous"))
        assert not created.exists(), key
        workspace.store.objects.write(key, before)
    assert len(contents) > 12
