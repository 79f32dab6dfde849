"""No object is unpickled: a pickle that would leave a trace is planted wherever something is read."""

import pickle
from contextlib import suppress
from pathlib import Path

from support.lives import Life, make_task

from retrain.pipeline import stages
from retrain.pipeline.planning import Request
from retrain.store import LocalStore

TASK = make_task()


class Mark:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_no_store_object_is_ever_unpickled(tmp_path: Path) -> None:
    mark, life = tmp_path / "mark", Life(LocalStore(tmp_path / "store"), tmp_path)
    payload = pickle.dumps(Mark(mark))
    pickle.loads(payload)
    mark.unlink()  # it works
    life.land(0, 1)
    first = stages.run_task(life.context, TASK, Request())
    life.land(1, 2, seed=1)
    life.store.objects.write(life.store.keys.run(first.run_id, "state/1"), payload)
    contents = life.contents()
    for key, before in contents.items():
        life.store.objects.write(key, payload)
        with suppress(Exception):  # whatever it is refused with, it must not be run
            stages.run_task(life.context, TASK, Request("continuous"))
        assert not mark.exists(), key
        life.store.objects.write(key, before)
    assert len(contents) > 12
