"""The client's side of artifacts, against real workers that keep them in stores of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from artifact_files import SPEC, checkpoint_elsewhere, write_artifact
from folders import make_folder

from slmbench.errors import BadInputError, CannotRunError
from slmbench.fleet import send_files
from slmbench.fleet.connection import Link, Reached, opened
from slmbench.fleet.messages import About, Holding, Needed, Planned, Receiving
from slmbench.fleet.send_artifact import Supply, described
from slmbench.fleet.transfer_format import PIECE_BYTES
from slmbench.machine.fingerprint import collect
from slmbench.models.artifact import Artifact, damage, read_artifact
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.plan.request import RunRequest

distributed = pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """Five pieces in the client's store."""
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "client"))
    files = {"model.xml": b"<net/>", "model.bin": os.urandom(3 * PIECE_BYTES + 5)}
    return write_artifact(checkpoint_elsewhere(tmp_path / "model"), files)


def supply(link: Any, artifact: Artifact, lines: list[str] | None = None) -> Supply:
    model = artifact.manifest.checkpoint
    request = RunRequest(models=("model",), checkpoints=(("model", model),))
    return Supply(link, request, ([] if lines is None else lines).append)


def need(model: Checkpoint, *keys: str) -> Needed:
    return Needed(checkpoint_digest=model.digest, spec=SPEC, keys=keys or ("a case",), state="lacks", why="no torch")


class Workers:
    """Workers as processes, by name; each has a store of its own."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self, *names: str) -> None:
        for name in names:
            self.processes[name] = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("holder_worker.py")), self.address, name],
                stdout=subprocess.PIPE,
                env={**os.environ, "SLMBENCH_CACHE": str(self.folder / name)},
            )
        for name in names:
            out = self.processes[name].stdout
            assert out is not None
            assert await asyncio.to_thread(out.readline) == b"ready\n"

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].communicate()

    def holds(self, name: str, artifact: Artifact) -> bool:
        there = read_artifact(self.folder / name / "artifacts" / artifact.folder.name)
        return damage(there) is None and there.manifest == artifact.manifest


@asynccontextmanager
async def shelf(folder: Path, *names: str) -> AsyncIterator[tuple[Link, Workers]]:
    async with distributed.Scheduler(
        host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0", dashboard=False
    ) as scheduler:
        workers = Workers(folder, scheduler.address)
        try:
            await workers.start(*names)
            async with opened(scheduler.address, None) as link:
                yield link, workers
        finally:
            for name in workers.processes:
                workers.kill(name)


class Wire:
    """A link that counts pieces, and spoils or stops what a test says."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.pieces: dict[str, int] = {}
        self.spoil: Iterator[bool] = iter(())
        self.kill_after: tuple[Workers, str, int] | None = None

    async def call(self, address: str, kind: Any, machine: str, *, op: str, **fields: Any) -> Any:
        if fields.get("data"):
            self.pieces[machine] = self.pieces.get(machine, 0) + 1
            if self.kill_after and self.kill_after[1:] == (machine, self.pieces[machine]):
                self.kill_after[0].kill(machine)
            if next(self.spoil, False):
                fields["data"] = bytes([fields["data"][0] ^ 1]) + fields["data"][1:]
        return await self.link.call(address, kind, machine, op=op, **fields)


def test_each_machine_gets_it_once_and_one_that_was_killed_the_rest(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slmbench.fleet.connection.CONNECT_S", 2.0)

    async def run() -> None:
        async with shelf(tmp_path, "one", "two") as (link, workers):
            machines = {one.about.name: one for one in await link.machines()}
            wire = Wire(link)
            wire.kill_after = (workers, "two", 4)
            sending = supply(wire, artifact)
            asked = [need(artifact.manifest.checkpoint, "a", "b")]
            chunks = [sending.ready(machines["one"], asked, [key]) for key in ("a", "b", "another artifact's")]
            *done, lost = await asyncio.gather(
                *chunks, sending.ready(machines["two"], asked, ["a"]), return_exceptions=True
            )
            assert done == [None, None, None]
            assert isinstance(lost, CannotRunError)
            assert wire.pieces == {"one": 6, "two": 4}
            assert workers.holds("one", artifact)
            await workers.start("two")
            (again,) = [one for one in await link.machines() if one.about.name == "two"]
            await supply(wire, artifact).ready(again, asked, ["b"])
            # Three had arrived; the fourth was on the way.
            assert wire.pieces["two"] == 4 + 3
            assert workers.holds("two", artifact)

    asyncio.run(run())


def test_two_clients_and_a_spoiled_piece_end_right(tmp_path: Path, artifact: Artifact) -> None:
    async def run() -> list[str]:
        lines: list[str] = []
        async with shelf(tmp_path, "one") as (link, workers):
            (at,) = await link.machines()
            wire = Wire(link)
            wire.spoil = iter([False, True])
            both = (supply(wire, artifact, lines).send(at, artifact) for _ in range(2))
            await asyncio.gather(*both)
            # Six pieces, of each client at most, and the one that was spoiled.
            assert 7 <= wire.pieces["one"] <= 13
            assert workers.holds("one", artifact)
            wire.pieces.clear()
            await supply(wire, artifact).send(at, artifact)
            assert not wire.pieces
        return lines

    assert any("was damaged on the way; sent again" in line for line in asyncio.run(run()))


class Machine:
    """A fleet of one machine, and what it answers: one answer an operation, or a list of them."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def machines(self) -> list[Reached]:
        return [reached()]

    async def call(self, address: str, kind: Any, machine: str, *, op: str, **fields: Any) -> Any:
        self.asked.append(op)
        answer = self.answers[op]
        return answer.pop(0) if isinstance(answer, list) else answer


def reached(name: str = "one") -> Reached:
    return Reached(f"tcp://{name}:1", About(slmbench_version="0", name=name, fingerprint=collect(), devices=()))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Receiving(state="refused", why="500.0 MB more and 1.0 MB free"), "is refused: 500.0 MB more"),
        (Receiving(state="wants", file="../../etc/passwd"), "asks for more than there is"),
        (Receiving(state="wants", file="model.xml", offset=6), "asks for more than there is"),
        (Receiving(state="wants", file="model.bin", damaged=True), "model.bin is damaged on the way each time"),
        (Receiving(state="wants", file="model.bin"), "asks for more than there is"),
    ],
)
def test_a_machine_that_does_not_take_it_is_given_up(answer: Receiving, problem: str, artifact: Artifact) -> None:
    with pytest.raises(CannotRunError, match=problem):
        asyncio.run(supply(Machine(receive=answer), artifact).send(reached(), artifact))


def test_a_file_that_is_changed_while_it_is_sent_is_named(artifact: Artifact) -> None:
    (artifact.folder / "model.xml").write_bytes(b"<")
    wants = Machine(receive=Receiving(state="wants", file="model.xml"))
    with pytest.raises(BadInputError, match=r"model\.xml: was changed while it was sent"):
        asyncio.run(supply(wants, artifact).send(reached(), artifact))


def test_what_a_machine_makes_or_waits_for_is_said_once(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_files, "AGAIN_S", 0.0)
    there = Holding(state="here", files=artifact.manifest.files)
    makes = Holding(state="makes")
    link, lines = Machine(artifact=[Holding(state="busy"), makes, makes, there]), []
    model = artifact.manifest.checkpoint
    asyncio.run(supply(link, artifact, lines).ready(reached(), [need(model)], ["a case"]))
    assert lines == [
        "one: model openvino fp32 (slmbench): is waiting for another run to end",
        "one: model openvino fp32 (slmbench): is being exported there",
    ]


def test_other_bytes_of_the_same_versions_are_refused_by_name(artifact: Artifact) -> None:
    files = artifact.manifest.files
    other = tuple(e.model_copy(update={"sha256": "0" * 64}) if e.path == "model.bin" else e for e in files)
    same, differs = Holding(state="here", files=files), Holding(state="here", files=other)
    newer = Holding(state="here", files=other, versions={"torch": "99"})
    model = artifact.manifest.checkpoint

    async def run() -> None:
        link = Machine(artifact=[same, newer, differs])
        one = supply(link, artifact)
        for name in ("one", "two", "three"):
            await one.ready(reached(name), [need(model)], ["a case"])

    with pytest.raises(
        CannotRunError, match=r"machine three: its model openvino .* that of this machine differ in model\.bin"
    ):
        asyncio.run(run())


def test_cases_whose_artifact_nobody_can_make_are_left_out_before_anything_starts(artifact: Artifact) -> None:
    model = artifact.manifest.checkpoint
    here = need(model, "a", "c")
    lines: list[str] = []
    sending = supply(Machine(), artifact, lines)
    int8 = need(model, "b").model_copy(update={"spec": SPEC.model_copy(update={"weight_precision": "int8"})})

    async def possible(*needs: Needed) -> Planned:
        planned = Planned(keys=("a", "b", "c"), blocks=((0, 1), (2,)), needs=needs)
        return await sending.possible(planned)

    assert asyncio.run(possible(here)).keys == ("a", "b", "c")
    assert lines == []
    left = asyncio.run(possible(here, int8))
    assert asyncio.run(possible(here, int8)) == left
    assert lines == [f"left out: {left.left_out[0]}"]
    assert (left.keys, left.blocks) == (("a", "c"), ((0,), (1,)))
    assert left.left_out == ("model openvino int8 (slmbench): there: no torch; here: model is not on it",)
    with pytest.raises(CannotRunError, match="not part of this run"):
        asyncio.run(possible(need(model.model_copy(update={"digest": "0" * 64}))))


def test_a_suite_whose_artifacts_nobody_can_make_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slmbench.fleet import machine_job
    from slmbench.fleet.client import run_on_fleet
    from slmbench.fleet.selection import MachineSelection

    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine_job, "missing_libraries", lambda *_: ["torch"])
    folder = make_folder(tmp_path / "mine")
    there = Machine(plan=Planned(keys=("a case",), needs=(need(resolve(str(folder))),)))
    request, out = RunRequest(models=(str(folder),)), tmp_path / "run"
    with pytest.raises(
        CannotRunError, match=r"one: mine openvino fp32 .*: there: no torch; here: not installed: torch"
    ):
        asyncio.run(run_on_fleet(there, request, out, MachineSelection(), lambda line: None))  # type: ignore[arg-type]
    assert there.asked == ["plan"]
    assert not out.exists()


def test_a_folder_of_the_client_is_described_to_machines_and_a_catalog_name_is_not(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    request = described(RunRequest(models=(str(folder), "dec-tiny")))
    ((name, one),) = request.checkpoints
    assert (name, one.name) == (str(folder), "mine")
    sent = RunRequest.model_validate_json(request.model_dump_json())
    assert sent.checkpoints[0][1].path is None
    assert sent.checkpoints[0][1].digest == resolve(str(folder)).digest
