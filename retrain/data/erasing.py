"""Erase samples from a task's drops: rewrite the shards and sample lists that contain them, and clear the local cache.

Every step can be repeated, because the former files are deleted only after all steps that read them. The same command
therefore completes an interrupted erasure.
"""

import hashlib
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrain.config import SPLITS
from retrain.config.frame import Frame
from retrain.data.amending import COLUMNS, read_rows
from retrain.data.committing import DropCommitter
from retrain.data.content import CONTENT_BYTES, examine_image
from retrain.data.finding import Search, Selection
from retrain.data.packing import PACKED_FOLDER
from retrain.data.sample_table import NOWHERE, SampleTable, name_table
from retrain.data.shards import split_name
from retrain.data.table_making import read_or_make_table
from retrain.data.tars import HashingReader, read_members
from retrain.errors import DamagedDrop, DropError
from retrain.records import Change, Drop, ErasedSample, Erasure, LeftOut, Shard, Uploaded, digest
from retrain.records.drop import ERASED, Changes, Erased, amend, drop_digest
from retrain.store.drops import OWN_FILES
from retrain.store.keys import name_shard
from retrain.store.task_store import TaskStore
from retrain.utils.parallel import map_ahead


def select_image(path: Path, frame: Frame) -> Selection:
    """Return a selection of the samples with the content of an image file. Raises `DropError` if it is no image."""
    try:
        return Selection(str(path), "", "", examine_image(path.read_bytes(), frame).content.hex(), is_image=True)
    except OSError as error:
        raise DropError(f"{path}: cannot be read: {error.strerror}") from error
    except DropError as error:
        raise DropError(f"{path}: {error}") from error


def select_listed(path: Path) -> list[Selection]:
    """Return the samples that a CSV or JSON lines name. The columns are `COLUMNS`. Some may be absent.

    Raises `DropError` for a line that names no sample. The message names the line.
    """
    found = [
        Selection(f"{path}: line {line}", row["drop"], row["key"], row["content"])
        for line, row in read_rows(path, COLUMNS)
    ]
    for one in found:
        if not (one.key or one.content):
            raise DropError(f"{one.where}: has neither a key nor a content digest: give one of them")
    return found


def find_samples(selections: Iterable[Selection], committer: DropCommitter) -> list[ErasedSample]:
    """Return every sample, used or not and in any drop, that has the same content as a selected sample.

    Samples that were erased before are left out. Raises `DropError` for a selection that matches no sample, or whose
    key belongs to several images.
    """
    selections, tables = list(selections), list(committer.tables(quarantined=True))
    search = Search(selections, tables)
    rows = {drop.id: set[int]() for drop, _ in tables}
    contents = set[bytes]()
    for selection in selections:
        found = [(*tables[number], row) for number, row in search.find(selection)]
        shown = {bytes(table.content[row]) for _, table, row in found}
        if not found and selection.is_image:
            raise DropError(
                f"{selection.where}: no sample of any drop has the content of this image. A copy that was resized or "
                "compressed again has another content: select the sample with --key, its path in the uploaded folder"
            )
        if not found:
            name = selection.content or selection.key
            raise DropError(
                f"{selection.where}: {name} matches no sample of {selection.drop or 'any drop'}: copy the key or the "
                "content digest from the table of `retrain data review --csv`"
            )
        if len(shown) > 1:
            drops = ", ".join(sorted({drop.id for drop, _, _ in found}))
            which = "its content digest" if selection.drop else "its drop"
            raise DropError(
                f"{selection.where}: {len(found)} samples have the key {selection.key} ({drops}): give {which}"
            )
        contents |= shown - {b""}
        for drop, _, row in found:
            rows[drop.id].add(row)
    wanted = np.array(sorted(contents), f"S{CONTENT_BYTES}")
    for drop, table in tables:
        rows[drop.id] |= set(np.flatnonzero(np.isin(table.content, wanted)).tolist())
        rows[drop.id] -= set(drop.erased.rows if drop.erased else ())
    return [
        ErasedSample(drop=drop.id, row=row, content=table.digest_of(row))
        for drop, table in tables
        for row in sorted(rows[drop.id])
    ]


def find_shards(samples: Iterable[ErasedSample], committer: DropCommitter) -> tuple[str, ...]:
    """Return the SHA-256 of each shard that contains some of these samples."""
    found = {drop.id: (drop, table) for drop, table in committer.tables(quarantined=True)}
    places = ((found[sample.drop][0].shards, found[sample.drop][1].shard[sample.row]) for sample in samples)
    return tuple(sorted({shards[place].sha256 for shards, place in places if place != NOWHERE}))


def removals(erasure: Erasure, committer: DropCommitter) -> list[Change]:
    """Return the changes that remove an erasure's samples from their splits."""
    rows = erasure.rows()
    return [
        Change(
            drop=drop.id,
            row=row,
            key=ERASED,
            content=table.digest_of(row),
            split=SPLITS[table.use[row]],
            before=table.class_of(row),
            after=None,
            reason=f"erasure {erasure.sequence}",
            author=erasure.author,
        )
        for drop, table in committer.tables(quarantined=True)
        for row in sorted(rows.get(drop.id, ()))
        if table.use[row] < len(SPLITS)
    ]


def read_keys(drop_id: str, rows: Collection[int], store: TaskStore) -> set[str]:
    """Return the keys of the samples in `rows` of a drop, without samples that are already erased."""
    table = _read_base_table(_read_manifest(drop_id, store), store)
    return {table.keys[row] for row in rows} - {ERASED}


def rewrite_drop(drop_id: str, rows: Collection[int], store: TaskStore) -> None:
    """Rewrite a drop's shards and sample list without the samples in `rows`, and then its manifest.

    The former files stay in the store. Raises `DamagedDrop` for a shard that differs from the manifest.
    """
    drop = _read_manifest(drop_id, store)
    done = set(drop.erased.rows) if drop.erased else set()
    if done.issuperset(rows):
        return
    table = _read_base_table(drop, store)
    shards = _rewrite_shards(drop, table, rows, store)
    data = _without_names(table, rows).to_bytes()
    listed = name_table(data)
    store.objects.write(store.keys.drop_file(drop_id, listed.name), data)
    keys = {table.keys[row] for row in rows}
    new = drop.model_copy(
        update={
            "shards": shards,
            "sample_list": listed,
            "left_out": tuple(_forget(bad) if bad.key in keys else bad for bad in drop.left_out),
            "uploaded": drop.uploaded and _count_uploaded(drop, shards, store),
            "erased": Erased(rows=tuple(sorted(done.union(rows))), digest=""),
        }
    )
    assert new.erased
    erased = new.erased.model_copy(update={"digest": drop_digest(new)})
    store.drops.replace_manifest(new.model_copy(update={"erased": erased}))


def _read_manifest(drop_id: str, store: TaskStore) -> Drop:
    drop = store.drops.find_manifest(drop_id)
    if drop is None:
        raise DropError(f"drop {drop_id} is no longer in {store.url}: restore its folder from a copy of the store")
    return drop


def _read_base_table(drop: Drop, store: TaskStore) -> SampleTable:
    """Return a drop's table without its amendments."""
    return read_or_make_table(drop.model_copy(update={"erased": None}), store)


def _without_names(table: SampleTable, rows: Collection[int]) -> SampleTable:
    """Return a table that keeps only the digest, the class and the former use of the samples in `rows`."""
    places = list(rows)
    keys = list(table.keys)
    columns = ("likeness", "width", "height", "brightness", "thumbnail", "shard")
    blank = {name: getattr(table, name).copy() for name in columns}
    for row in places:
        keys[row] = ERASED
    for name, column in blank.items():
        column[places] = NOWHERE if name == "shard" else 0
    return replace(table, keys=tuple(keys), **blank)


def _forget(bad: LeftOut) -> LeftOut:
    return LeftOut(where=ERASED, key=ERASED, cause=bad.cause)


def _count_uploaded(drop: Drop, shards: Sequence[Shard], store: TaskStore) -> Uploaded:
    """Return the number and size of the producer's files that remain after the erasure."""
    before = store.drops.committed([drop.id]).uploaded.get(drop.id, Uploaded(files=0, size=0))
    names = {shard.name for shard in shards}
    deleted = [shard for shard in drop.shards if shard.name not in names and not OWN_FILES.fullmatch(shard.name)]
    return Uploaded(files=before.files - len(deleted), size=before.size - sum(shard.size for shard in deleted))


def _rewrite_shards(drop: Drop, table: SampleTable, rows: Collection[int], store: TaskStore) -> tuple[Shard, ...]:
    """Upload a new version of each shard that has samples in `rows`, without these samples. Return all records."""
    shards = list(drop.shards)
    with tempfile.TemporaryDirectory(prefix="retrain-") as folder:
        for position in sorted({int(table.shard[row]) for row in rows} - {NOWHERE}):
            within = [row for row in rows if table.shard[row] == position]
            written = _rewrite_shard(drop, position, [table.keys[row] for row in within], store, Path(folder))
            used = sum(int(table.use[row]) < len(SPLITS) for row in within)
            shards[position] = written.model_copy(update={"samples": written.samples - used})
    return tuple(shards)


def _rewrite_shard(drop: Drop, position: int, keys: Collection[str], store: TaskStore, folder: Path) -> Shard:
    """Upload a copy of a shard without the files of these keys. Return its record, with the former sample count."""
    shard = drop.shards[position]
    where = store.keys.drop_file(drop.id, shard.name)
    path = folder / "shard.tar"
    with store.objects.open(where) as stream:
        reader = HashingReader(stream)
        _copy_members(reader, path, set(keys), where)
    if (reader.size, reader.sha256) != (shard.size, shard.sha256):
        raise DamagedDrop(
            drop.id,
            f"{store.url}/{where} is damaged: its size or digest differs from the manifest. Restore it from a copy of "
            "the store",
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    name = (PACKED_FOLDER if drop.uploaded else "") + name_shard(shard.split, position, sha256)
    store.objects.upload(path, store.keys.drop_file(drop.id, name))
    return shard.model_copy(update={"name": name, "size": path.stat().st_size, "sha256": sha256})


def _copy_members(stream: HashingReader, path: Path, without: Collection[str], where: str) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as copy:
        for member in read_members(stream, where):
            named = split_name(member.name)
            if not member.isreg() or (named and named[0] in without):
                continue
            stream.seek(member.offset_data)
            copy.addfile(member, stream)  # type: ignore[arg-type]  # it only reads as many bytes as the member has


def clear_cache(cache: Path, store: TaskStore) -> None:
    """Delete from this machine's cache all data of drops from before their erasures."""
    erasures, changes = store.erasures.read(), store.drops.amendments.by_drop()
    rows = defaultdict[str, list[set[int]]](list)
    for erasure in erasures:
        for drop_id, erased in erasure.rows().items():
            rows[drop_id].append(erased)
    drops = filter(None, map_ahead(store.drops.find_undamaged, rows))  # no run can use a damaged drop
    stale = {one for drop in drops for one in _stale_digests(drop, rows[drop.id], changes.get(drop.id, ()))}
    for path in cache.glob("*.*"):
        if path.name[:64] in stale:
            path.unlink(missing_ok=True)
    for sha256 in {shard for each in erasures for shard in each.shards}:
        (cache / "shards" / f"{sha256}.tar").unlink(missing_ok=True)


def _stale_digests(drop: Drop, erasures: Iterable[Collection[int]], changes: Changes) -> Iterator[str]:
    """Yield the digests that a drop's versions had before its erasures. Caches may contain such versions.

    `erasures` has the rows that each erasure has removed, and `changes` has the drop's changes by amendment.
    """
    versions = {amend(drop, changes[:number]).digest for number in range(len(changes) + 1)}
    yield from versions
    erased = set[int]()
    for rows in erasures:
        erased.update(rows)
        if drop.erased and erased != set(drop.erased.rows):
            yield from (digest([version, sorted(erased)]) for version in versions)
