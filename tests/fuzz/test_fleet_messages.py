"""Whatever a fleet's machine answers: one clear line that names it, nothing outside the run's folder, and an end."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from artifact_files import SPEC, checkpoint_elsewhere, write_artifact
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import Speed, make_run

from slmbench._version import __version__
from slmbench.errors import SlmbenchError
from slmbench.fleet import follow_part as stream
from slmbench.fleet.client import run_on_fleet
from slmbench.fleet.connection import Link, Reached
from slmbench.fleet.messages import About, Holding, Needed, PartBegun, Planned, Progress, Receiving
from slmbench.fleet.record import FleetRecord
from slmbench.fleet.selection import MachineSelection
from slmbench.fleet.send_artifact import Supply
from slmbench.machine.devices import DeviceRow
from slmbench.machine.fingerprint import Fingerprint
from slmbench.plan.request import RunRequest
from slmbench.records.schema import SAMPLES_NAME, read_samples

ADDRESS = "tcp://127.0.0.1:1"
MADE = make_run([Speed(output_tokens=4)], run_id="r")
KEYS = tuple(info.case.key for info in MADE.record.cases)
LINES = "".join(line.model_dump_json() + "\n" for line in MADE.lines)
#: Answers after which a machine that never ends is gone.
MOST_ANSWERS = 40
STEERING = "\x1b]0;x\x07\u202e\n../../x"


class Remote:
    """Dask's scheduler with one machine, in this process: what it answers to ``spoiled`` is another thing."""

    def __init__(self, spoiled: str, answer: Any, *, once: bool = False) -> None:
        self.spoiled, self.answer, self.once, self.count = spoiled, answer, once, 0
        self.ended = False

    async def identity(self) -> dict[str, Any]:
        return {"workers": {ADDRESS: {}}}

    async def broadcast(self, *, msg: dict[str, Any], workers: list[str], on_error: str) -> Any:
        assert (workers, on_error) == ([ADDRESS], "raise")
        op = msg["op"].removeprefix("slmbench_")
        self.count += 1
        if self.count > MOST_ANSWERS:
            raise OSError("it has left the fleet")
        if op == self.spoiled:
            self.spoiled = "" if self.once else op
            return self.answer
        return {ADDRESS: {"json": json.dumps(good(op, self))}}


def good(op: str, remote: Remote | None = None) -> Any:
    """Return what a machine in order answers."""
    row = DeviceRow(backend="b", device="cpu", engine_name="E", available=True, detail="")
    hardware = {"cpu_model": "x", "physical_cores": 2, "logical_cores": 2, "memory_gib": 4, "os": "Linux", "arch": "y"}
    progress = Progress(state="running", lines=LINES, run=MADE.record.model_dump_json(), done=KEYS)
    if op == "read" and remote is not None:
        if remote.ended:
            progress = Progress(state="ended", run=MADE.record.model_dump_json())
        remote.ended = True
    answers = {
        "about": About(
            slmbench_version=__version__,
            name="one",
            fingerprint=Fingerprint.model_validate({"hardware": hardware}),
            devices=(row,),
        ),
        "plan": Planned(keys=KEYS),
        "begin": PartBegun(),
        "read": progress,
        "forget": PartBegun(absent=True),
        "artifact": Holding(state="lacks", why="x"),
        "receive": Receiving(state="here"),
    }
    return json.loads(answers[op].model_dump_json())


def run(folder: Path, remote: Any) -> FleetRecord | str:
    """Return how a run on that fleet ended: its record, or the one clear line."""

    async def work() -> FleetRecord:
        request, choice = RunRequest(models=("dec-tiny",)), MachineSelection()
        return await asyncio.wait_for(run_on_fleet(Link(remote), request, folder, choice, heard.append), 20)

    heard: list[str] = []
    try:
        record = asyncio.run(work())
    except SlmbenchError as error:
        return str(error)
    return record


def hold(folder: Path, remote: Any) -> None:
    """Run, and hold what came of it against what is promised."""
    begin = time.monotonic()
    ended = run(folder / "run", remote)
    assert time.monotonic() - begin < 10
    lines = ended.splitlines() if isinstance(ended, str) else [m.outcome or "" for m in ended.machines.values()]
    for line in lines:
        assert line.isprintable(), line
        assert len(line) < 2000
    outside = [path for path in folder.rglob("*") if not path.is_relative_to(folder / "run")]
    assert not outside
    for path in folder.rglob(SAMPLES_NAME):
        assert {record.case for record in read_samples(path, [])} <= set(KEYS)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LOOK_S", 0.0)


OPS = ("about", "plan", "begin", "read", "forget")
WRONG: dict[str, Any] = {
    "nothing": None, "a list": [], "no machine": {}, "another machine": {"tcp://x:1": {"json": "{}"}},
    "a word": {ADDRESS: "x"}, "bytes": {ADDRESS: b"x"}, "no text": {ADDRESS: {"json": 7}},
    "empty": {ADDRESS: {"json": ""}}, "null": {ADDRESS: {"json": "null"}}, "no JSON": {ADDRESS: {"json": "{"}},
    "nested deep": {ADDRESS: {"json": "[" * 100_000}}, "a surrogate": {ADDRESS: {"json": '{"name": "\ud800"}'}},
    "a huge number": {ADDRESS: {"json": '{"progress": [' + "9" * 5000 + "]}"}},
    "escapes as key": {ADDRESS: {"json": json.dumps({STEERING: 1})}}, "an error": {ADDRESS: OSError("x")},
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("op", OPS)
def test_an_answer_that_is_none(op: str, what: str, tmp_path: Path) -> None:
    hold(tmp_path, Remote(op, WRONG[what]))


def test_the_machine_in_order_is_measured(tmp_path: Path) -> None:
    record = run(tmp_path, Remote("", None))
    assert isinstance(record, FleetRecord)
    assert record.machines["one"].outcome == ""
    assert not record.not_run


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([STEERING, "", "../x", *KEYS])
_VALUES = st.recursive(
    _SCALARS | st.text(max_size=12),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=6,
)


def spoil(value: Any, data: st.DataObject) -> Any:
    """Return the JSON value with something else at a place of it."""
    value = copy.deepcopy(value)
    part: Any = value
    while True:
        key = data.draw(st.sampled_from(sorted(part) if isinstance(part, Mapping) else range(len(part))))
        if not (isinstance(part[key], dict | list) and part[key]) or data.draw(st.booleans()):
            break
        part = part[key]
    part[key] = data.draw(_VALUES)
    return value


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(data=st.data(), op=st.sampled_from(OPS), once=st.booleans())
def test_an_answer_with_something_else_in_it(
    data: st.DataObject, op: str, once: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = json.dumps(spoil(good(op), data))
    hold(tmp_path_factory.mktemp("drawn"), Remote(op, {ADDRESS: {"json": text}}, once=once))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data(), part=st.sampled_from(["run", "line", "bytes"]))
def test_a_record_with_something_else_in_it(
    data: st.DataObject, part: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    answer = good("read")
    if part == "run":
        answer["run"] = json.dumps(spoil(json.loads(answer["run"]), data))
    else:
        rows = LINES.splitlines(keepends=True)
        at = data.draw(st.integers(0, len(rows) - 1))
        rows[at] = json.dumps(spoil(json.loads(rows[at]), data)) + "\n"
        if part == "bytes":
            rows[at] = data.draw(st.text(max_size=40)) + data.draw(st.sampled_from(["\n", "", "\r", "\u2028"]))
        answer["lines"] = "".join(rows)
    hold(tmp_path_factory.mktemp("drawn"), Remote("read", {ADDRESS: {"json": json.dumps(answer)}}, once=True))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data(), kind=st.sampled_from([Holding, Receiving]))
def test_a_machine_that_is_sent_an_artifact_answers_anything(
    data: st.DataObject, kind: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slmbench.fleet.send_files.AGAIN_S", 0.0)
    folder = tmp_path_factory.mktemp("sent")
    monkeypatch.setenv("SLMBENCH_CACHE", str(folder / "cache"))
    checkpoint = checkpoint_elsewhere(folder / "model")
    artifact = write_artifact(checkpoint, {"model.xml": b"0123456789"})
    request = RunRequest(models=("mine",), checkpoints=(("mine", checkpoint),))
    heard: list[str] = []
    state = "here" if kind is Holding else "wants"
    fields = {"state": state, "file": "model.xml"} if kind is Receiving else {"state": state, "why": "x"}
    answer = spoil(json.loads(kind.model_validate(fields).model_dump_json()), data)
    op = "artifact" if kind is Holding else "receive"
    remote = Remote(op, {ADDRESS: {"json": json.dumps(answer)}}, once=data.draw(st.booleans()))
    about = About.model_validate(good("about"))

    async def send() -> None:
        supply = Supply(Link(remote), request, heard.append)
        if kind is Holding:
            digest = artifact.manifest.checkpoint.digest
            need = Needed(checkpoint_digest=digest, spec=SPEC, keys=KEYS, state="here")
            await asyncio.wait_for(supply.ready(Reached(ADDRESS, about), [need], KEYS), 20)
        else:
            await asyncio.wait_for(supply.send(Reached(ADDRESS, about), artifact), 20)

    told = ""
    try:
        asyncio.run(send())
    except SlmbenchError as error:
        told = str(error)
    assert told.isprintable()
    assert len(told) < 2000
