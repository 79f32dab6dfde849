"""The champion: one small object that names the promoted run, replaced only by compare-and-swap."""

from typing import NamedTuple
from uuid import uuid4

from retrain.errors import RunError
from retrain.records import Champion, Promotion
from retrain.records.ledger import PromotionReason
from retrain.store.base import Conflict, Missing, ObjectStore, read_record
from retrain.store.keys import TaskKeys
from retrain.utils.clock import utc_now


class Author(NamedTuple):
    """The person who promotes a model, and the reason that this person gives."""

    name: str | None = None
    reason: str | None = None


NO_AUTHOR = Author()
"""The author of promotions that the gate decides."""


class ChampionSnapshot(NamedTuple):
    """The champion at the time of reading, and the version of its object. A swap compares the version."""

    champion: Champion | None
    version: str | None

    @property
    def run_id(self) -> str | None:
        """Return the id of the champion's run, if there is one."""
        return self.champion.run_id if self.champion else None


def was_promoted(seen: ChampionSnapshot, run_id: str) -> bool:
    """Return whether a run has been promoted before, even if it is not the champion now."""
    return seen.champion is not None and any(entry.run_id == run_id for entry in seen.champion.history)


def compared_champion(seen: ChampionSnapshot, run_id: str) -> str | None:
    """Return the run that a candidate is compared with.

    This is the champion. If the candidate has already been promoted, it is the champion before that promotion.
    """
    before = None
    for entry in seen.champion.history if seen.champion else ():
        if entry.run_id == run_id:
            return before
        before = entry.run_id
    return seen.run_id


class ChampionPointer:
    """The champion of a task: one object, replaced only by compare-and-swap."""

    def __init__(self, objects: ObjectStore, keys: TaskKeys) -> None:
        self._objects, self._key = objects, keys.champion

    def read(self) -> ChampionSnapshot:
        """Return the current champion. Raises `StoreError` if its record cannot be read."""
        try:
            return ChampionSnapshot(*read_record(self._objects, self._key, Champion))
        except Missing:
            return ChampionSnapshot(None, None)

    def swap(self, seen: ChampionSnapshot, run_id: str, why: PromotionReason, author: Author = NO_AUTHOR) -> Champion:
        """Promote a run if the champion is still the one in the snapshot. Otherwise raise `Conflict`."""
        history = seen.champion.history if seen.champion else ()
        entry = Promotion(
            sequence=len(history) + 1,
            run_id=run_id,
            why=why,
            at=utc_now(),
            author=author.name,
            reason=author.reason,
            write_id=uuid4().hex,
        )
        before = seen.champion or Champion(history=(entry,))
        champion = before.model_copy(update={"history": (*history, entry)})
        if seen.version is None:
            self._objects.create(self._key, champion.to_bytes())
        else:
            self._objects.replace(self._key, champion.to_bytes(), seen.version)
        return champion

    def promote_manually(
        self, seen: ChampionSnapshot, run_id: str, why: PromotionReason, author: Author = NO_AUTHOR
    ) -> Champion:
        """Promote a run at a person's request.

        Raises `RunError` if the run is the champion, or if another run has just been promoted.
        """
        if seen.run_id == run_id:
            raise RunError(f"{run_id} is already the champion: nothing to promote")
        try:
            return self.swap(seen, run_id, why, author)
        except Conflict as conflict:
            raise RunError(
                "another champion was promoted just now; check `retrain status` and decide again"
            ) from conflict


def standing_runs(champion: Champion) -> list[str]:
    """Return the ids of the promoted runs that no rollback has undone, oldest first. The last one is the champion's."""
    runs: list[str] = []
    for entry in champion.history:
        if entry.why == "rolled back":
            runs.pop()
        else:
            runs.append(entry.run_id)
    return runs


def rollback_target(champion: Champion) -> str:
    """Return the run to roll back to: the run that the champion replaced. Raises `RunError` if there is none.

    Each rollback undoes one more promotion. Two rollbacks in a row therefore go back by two champions.
    """
    runs = standing_runs(champion)
    if len(runs) == 1:
        raise RunError(f"there is nothing to roll back to: {champion.run_id} is the first champion")
    return runs[-2]
