"""Run a long scenario: a team works on one task over years, under the faults of short scenarios.

It begins with the store of an earlier version. Drops land, and the task's policies start retrainings. Candidates are
approved, rejected, refused, promoted, and rolled back by hand. Drops are amended, and samples are erased. Meanwhile
`retrain gc` removes models, and a later version of `retrain` alternates with this version. The same scenario runs
twice: first undisturbed, then under faults.
"""

import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any, NamedTuple

import torch
from PIL import Image
from support.trainings import pixels
from support.versions import GOLDEN
from support.writes import Strike

from chaos import actions, commands
from chaos.actions import LEASE_SECONDS
from chaos.agreement import entries, permanent_keys
from chaos.audit import digests
from chaos.environment import KEYS, Environment, objects
from chaos.expected import Expected, LongExpected
from chaos.kinds import damage_newest_state, make_queue, repeat_event, with_a_hole
from chaos.runner import Runner
from chaos.sums import is_record
from retrain.store import champions
from retrain.store.task_store import TaskStore

INHERITED = 2
"""Entries of the champions' history in the earlier version's store."""
EACH, CLASSES, LATE_CLASS = 8, 3, 20
"""Number of images in a class, classes of the first drops, and the drop from which on there is one more class."""
JITTER = 40.0
"""Standard deviation of the colour of an image. At about this value, a network confuses some classes."""
SETTINGS = "baseline: {refresh: {every: 12, on_miss: true}}\n"
"""Settings that the team adds to the earlier version's task file."""
WRITING = Lock()
POLICIES: dict[str, tuple[str, ...]] = {
    "no policy": (),
    "manual approval": ("gate.approval=manual",),
    "refusal": ("gate.min_accuracy=1.0",),
    "waiting for samples": ("trigger={min_samples: 1000000}",),
    "waiting for a quiet period": ("trigger={quiet_period: 1d}",),
    "waiting for a saving": ("trigger={expected_saving: 0.99}",),
    "waiting for a drift": ("trigger={min_samples: 1000000, drift: run}",),
    "spent budget": ("trigger={budget: {device_hours: 0.0000001, per: month}}",),
    "pause": ("trigger={pause: true}",),
    "retraining without erased samples": ("erase.policy=retrain",),
}
OFTEN = {"no policy": 8, "manual approval": 8, "refusal": 2}
"""Weights of policies that are chosen more often. All others have the weight 1."""
COMMAND_FAULTS = {"nothing": 4, "kills": 8, "race": 3, "freeze": 1, "damage": 1}
"""Weights of the faults of a command."""
NEVER_RACING = (actions.watch, commands.roll_back)
"""Actions that only one process may do at a time. A rollback that starts right after another rollback is a second
request: it goes back by one more champion."""


class Done(NamedTuple):
    """The objects that a scenario left, and its actions."""

    objects: dict[str, bytes]
    writes: list[int]
    """Number of writes of each action. A fault happens at one of them."""
    erased: list[bytes]
    team_actions: Counter[str]


def make_environment(environment: Environment, drops: int) -> Environment:
    """Write the task file and the earlier version's store into the folder of a long scenario, and write the images."""
    shutil.unpack_archive(GOLDEN["0.1.0"].archive, environment.folder / "golden", filter="data")
    with WRITING:  # scenarios share the images
        for number in range(drops):
            if not environment.source(f"drop-{number}").exists():
                _write_drop(environment.source(f"drop-{number}"), number)
    file = environment.folder / "golden" / "pets.yaml"
    file.write_text(file.read_text() + SETTINGS)
    return environment._replace(file=str(file))


def _write_drop(folder: Path, number: int) -> None:
    labels = torch.arange(CLASSES + (number >= LATE_CLASS)).repeat_interleave(EACH)
    random = torch.Generator().manual_seed(1000 + number)
    jitter = torch.randn(len(labels), 3, 1, 1, generator=random) * JITTER
    images = (pixels(labels, 1000 + number) + jitter).clamp(0, 255).to(torch.uint8)
    for position, image in enumerate(images):
        path = folder / f"class-{labels[position]}" / f"{number}-{position}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


class Team:
    """The team that does all actions of a scenario. `chance` chooses the actions. With `writes`, it injects faults."""

    def __init__(self, runner: Runner, chance: Random, writes: Sequence[int] | None = None) -> None:
        self._runner, self._chance, self._writes = runner, chance, writes
        self._store = TaskStore(runner.store(), KEYS.task)
        self._queue = make_queue(runner) if writes else None
        self.done = Done({}, [], [], Counter())

    def work(self, drops: int) -> Done:
        """Act until this number of drops have landed and every candidate has a verdict. Return the actions."""
        self._begin()
        while self._landed() < drops:
            self._land()
            self._retrain()
            for step in (self._decide, self._intervene):
                step()
        for run in self._waiting():
            self._do(commands.decide, "approve", run, False)
        self._do(actions.retrain)
        self._do(commands.collect, 1)
        self.done.objects.update(objects(self._runner.store()))
        return self.done

    def _begin(self) -> None:
        """Copy the store of the earlier version. Finish its last run, because this run was killed."""
        golden = self._runner.environment.folder / "golden" / "store"
        for path in sorted(path for path in golden.rglob("*") if path.is_file()):
            self._runner.store().write(str(path.relative_to(golden)), path.read_bytes())
        self._do(actions.retrain, (), self._is_later())

    def _landed(self) -> int:
        return len(self._store.drops.committed().usable)

    def _land(self) -> None:
        number = self.done.team_actions["drop"]
        if self._happens(0.05):
            self._upload_torn(f"torn-{number}")
        self._count("drop")
        self._do(commands.pack, f"drop-{number}", self._is_later())

    def _upload_torn(self, drop: str) -> None:
        """Upload a tar file that ends in the middle, and mark the upload as complete."""
        shard = min(key for key in objects(self._runner.store()) if key.endswith(".tar"))
        data = self._store.objects.read(f"{KEYS.task}/{shard}")[0]
        end = self._chance.randrange(600, len(data) // 2)
        self._store.objects.write(KEYS.drop_file(drop, "train-000000.tar"), data[:end])
        self._store.objects.write(KEYS.success(drop), b"")
        self._count("torn upload")
        self._do(actions.ingest, drop)

    def _retrain(self) -> None:
        """Retrain under a random policy or by a watcher, or abandon a killed run."""
        if self._happens(0.06):
            self._count("abandoned run")
            self._abandon()
        elif self._happens(0.15) and not self._waiting():
            self._count("watcher")
            drop = f"drop-{self.done.team_actions['drop'] - 1}"
            if self._queue:
                repeat_event(self._runner, self._queue, drop)
            self._do(actions.watch, self._queue, 0, drop)
        else:
            policy = self._chance.choices([*POLICIES], [OFTEN.get(name, 1) for name in POLICIES])[0]
            self._count(policy)
            self._do(actions.retrain, POLICIES[policy], self._is_later())

    def _abandon(self) -> None:
        """Kill a run at its first write, and never start it again. The next run is trained on more drops."""
        before = set(self._store.objects.folders(KEYS.runs))
        while set(self._store.objects.folders(KEYS.runs)) == before:
            self._runner.end(self._runner.start(actions.retrain, strike=Strike("SIGKILL", 1, "/runs/")))

    def _waiting(self) -> list[str]:
        return [approval.run_id for approval in self._store.approvals.unfinished() if approval.verdict is None]

    def _decide(self) -> None:
        """Decide about candidates. Some wait until further drops have landed."""
        for run in self._waiting():
            if self._happens(0.7):
                verb = self._chance.choice(["approve", "approve", "reject"])
                self._count(verb)
                self._do(commands.decide, verb, run, self._is_later())

    def _intervene(self) -> None:
        for step, share in (
            (self._roll_back, 0.15),
            (self._promote, 0.1),
            (self._erase, 0.15),
            (self._amend, 0.1),
            (self._calibrate, 0.06),
            (self._collect, 0.2),
        ):
            if self._happens(share):
                step()

    def _roll_back(self) -> None:
        champion = self._store.champion.read().champion
        assert champion
        standing = champions.standing_runs(champion)
        if len(standing) > 1 and self._store.run(standing[-2]).removed() is None:
            self._count("rollback")
            self._do(commands.roll_back, len(champion.history) + 1, self._is_later())

    def _promote(self) -> None:
        """Promote a run that was evaluated on test and still has its model."""
        champion = self._store.champion.read().champion
        assert champion
        tested = [record.run_id for record in self._store.ledger.read() if record.evaluation]
        able = [run for run in tested if run != champion.run_id and self._store.run(run).removed() is None]
        if able:
            self._count("promotion by hand")
            self._do(commands.promote, len(champion.history) + 1, self._chance.choice(able), self._is_later())

    def _erase(self) -> None:
        drop, samples = self._samples()
        chosen = self._chance.sample(sorted(samples), k=min(len(samples), self._chance.randint(1, 3)))
        self.done.erased.extend(samples[key] for key in chosen)
        self._count("erasure")
        self._do(commands.erase, self.done.team_actions["erasure"], drop, tuple(chosen))

    def _amend(self) -> None:
        """Move samples to another class, or remove them."""
        drop, samples = self._samples()
        lines = [
            {"drop": drop, "key": key, "reason": "wrong", "author": "ann"}
            | self._chance.choice([{"class": "class-0"}, {"remove": "yes"}])
            for key in self._chance.sample(sorted(samples), k=min(len(samples), 2))
        ]
        self._count("amendment")
        path = self._runner.environment.folder / f"amendment-{self.done.team_actions['amendment']}.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        self._do(commands.amend, str(path), self._is_later())

    def _samples(self) -> tuple[str, dict[str, bytes]]:
        """Return a committed drop, and its images by key."""
        drop = self._chance.choice(sorted(self._store.drops.committed().usable))
        images = {}
        for shard in self._store.drops.read(drop).shards:
            with tarfile.open(fileobj=io.BytesIO(self._store.objects.read(KEYS.drop_file(drop, shard.name))[0])) as tar:
                for member in tar:
                    if member.name.endswith(".png") and (file := tar.extractfile(member)):
                        images[member.name.removesuffix(".png")] = file.read()
        return drop, images

    def _calibrate(self) -> None:
        self._count("calibration")
        self._do(commands.calibrate, self._is_later())

    def _collect(self) -> None:
        self._count("gc")
        self._do(commands.collect, self._chance.randint(0, 3))

    def _happens(self, share: float) -> bool:
        return self._chance.random() < share

    def _is_later(self) -> bool:
        """Return whether a later version does the next action."""
        is_later = self._happens(0.2)
        self.done.team_actions["action of a later version"] += is_later
        return is_later

    def _count(self, step: str) -> None:
        self.done.team_actions[step] += 1

    def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        """Repeat an action until it is done, undisturbed or under faults."""
        if self._writes is None:
            self._runner.repeat_until_done(action, *arguments)
            self.done.writes.append(self._runner.last_writes())
            return
        writes = self._writes[len(self.done.writes)]
        self.done.writes.append(writes)
        fault = self._runner.random.choices([*COMMAND_FAULTS], [*COMMAND_FAULTS.values()])[0]
        if fault == "race" and action not in NEVER_RACING:
            self._runner.run_together((action, *arguments), (action, *arguments))
        elif fault == "freeze" and action is actions.retrain and writes:
            self._freeze(writes, *arguments)
        elif fault == "damage" and action is actions.retrain:
            self._damage(*arguments)
        strikes = list(self._runner.strikes(writes, 3)) if fault == "kills" else []
        self._runner.repeat_until_done(action, *arguments, strikes=strikes)

    def _freeze(self, writes: int, *arguments: Any) -> None:
        """Suspend a run past its lease. A second process takes over."""
        strike = Strike("SIGSTOP", self._runner.random.randint(1, writes))
        frozen = self._runner.start(actions.retrain, *arguments, strike=strike)
        other = self._runner.start(actions.retrain, *arguments)
        self._runner.faults["racing process"] += 1
        self._runner.continue_later(frozen, 1.5 * LEASE_SECONDS)
        for process in (frozen, other):
            self._runner.end(process)

    def _damage(self, *arguments: Any) -> None:
        damage_newest_state(self._runner, self._runner.store(), *arguments)
        for path in self._runner.environment.cache.glob("*.safetensors"):
            path.write_bytes(with_a_hole(path.read_bytes()))
            self._runner.faults["damaged cache"] += 1


COMMANDS_TO_AUDIT = {"history": ("history", "--json"), "status": ("status", "--json"), "metrics": ("metrics",)}
"""Commands whose output the audit compares with the store."""


def run_undisturbed(runner: Runner, drops: int, seed: int) -> Done:
    """Run a long scenario without faults."""
    runner.environment = make_environment(runner.environment, drops)
    return Team(runner, Random(seed)).work(drops)


def run_disturbed(runner: Runner, undisturbed: Done, drops: int, seed: int) -> Expected:
    """Run the same scenario under faults, and return its required result."""
    runner.environment = make_environment(runner.environment, drops)
    Team(runner, Random(seed), undisturbed.writes).work(drops)
    for file, words in COMMANDS_TO_AUDIT.items():
        runner.repeat_until_done(commands.write_output, file, *words)
    outputs = {file: (runner.environment.folder / file).read_text() for file in COMMANDS_TO_AUDIT}
    return _expect(undisturbed.objects, undisturbed.erased, outputs)


def _expect(left: Mapping[str, bytes], erased: Sequence[bytes], outputs: Mapping[str, str]) -> Expected:
    """Return the required result of a scenario, computed from the undisturbed scenario."""
    records = {data["run_id"]: data for data in (json.loads(left[key]) for key in left if is_record(key))}
    manifests = [key.split("/")[1:] for key in left if key.startswith("drops/") and key.count("/") == 2]
    states = {"drop.json": "committed", "quarantine.json": "quarantined"}
    return Expected(
        drops={drop: states[name] for drop, name in manifests if name in states},
        runs={run: digests(left, run) for run in records},
        saved=sum(record["savings"]["gross"] for record in records.values()),
        long=LongExpected(entries(left), INHERITED, permanent_keys(left, records), erased, outputs),
    )
