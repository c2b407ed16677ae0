"""A client against real Dask schedulers and workers on loopback; the machines answer what a test lets them."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from slmbench._version import __version__
from slmbench.cli import run_main
from slmbench.errors import BadInputError, CannotRunError
from slmbench.fleet import machine_server as machine
from slmbench.fleet.client import run_on_fleet
from slmbench.fleet.connection import Link, full_address, opened
from slmbench.fleet.messages import About, PartBegun, Planned, Progress
from slmbench.fleet.record import FleetRecord, machine_folder, read_fleet
from slmbench.fleet.selection import MachineSelection
from slmbench.machine.devices import DeviceRow
from slmbench.machine.fingerprint import collect
from slmbench.plan.request import RunRequest, plan_request, requested_suite
from slmbench.records.schema import FailureRecord, read_samples

distributed = pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")

KEY = "a case"
REQUEST = RunRequest(models=("dec-tiny",))


def sample(number: int, key: str = KEY) -> str:
    return FailureRecord(case=key, load=number, reason="error", message="é").model_dump_json() + "\n"


class Answers:
    """A machine with a list of what it sends, one text a look."""

    def __init__(self, name: str, texts: list[str], device: str = "cpu", version: str = __version__) -> None:
        self.name, self.texts, self.version = name, texts, version
        self.device = device
        self.begun: list[RunRequest] = []
        self.offsets: list[int] = []
        self.keys: tuple[str, ...] = (KEY,)

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {f"slmbench_{op}": getattr(self, op) for op in ("about", "plan", "begin", "read", "forget")}

    def about(self) -> dict[str, str]:
        row = DeviceRow(backend="b", device=self.device, engine_name="E", available=True, detail="")  # type: ignore[arg-type]
        about = About(slmbench_version=self.version, name=self.name, fingerprint=collect(), devices=(row,))
        return {"json": about.model_dump_json()}

    def plan(self, request: str) -> dict[str, str]:
        return {"json": Planned(keys=self.keys, left_out=() if self.keys else ("b lacks an NPU",)).model_dump_json()}

    def forget(self, run: str) -> dict[str, str]:
        return {"json": PartBegun(absent=True).model_dump_json()}

    def begin(self, run: str, request: str, have: int) -> dict[str, str]:
        self.begun.append(RunRequest.model_validate_json(request))
        return {"json": PartBegun().model_dump_json()}

    def read(self, run: str, offset: int, waiting: int = 0) -> dict[str, str]:
        self.offsets.append(offset)
        if self.texts:
            return {"json": Progress(state="running", lines=self.texts.pop(0)).model_dump_json()}
        return {"json": Progress(state="ended", error="out of memory").model_dump_json()}


@asynccontextmanager
async def fleet(*machines: Answers) -> AsyncIterator[Link]:
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            distributed.Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0", dashboard=False)
        )
        for one in machines:
            worker = distributed.Worker(scheduler.address, name=one.name, nthreads=1, dashboard_address="127.0.0.1:0")
            worker.handlers.update(one.handlers())
            await stack.enter_async_context(worker)
        yield await stack.enter_async_context(opened(scheduler.address, None))


def measured(
    folder: Path, *machines: Answers, request: RunRequest = REQUEST, choice: MachineSelection | None = None
) -> FleetRecord:
    async def run() -> FleetRecord:
        async with fleet(*machines) as link:
            return await run_on_fleet(
                link, request, folder, choice or MachineSelection(each_machine=True), lambda text: None
            )

    return asyncio.run(run())


def test_samples_arrive_in_their_machines_folder_and_a_failed_machine_is_named(tmp_path: Path) -> None:
    one, two = Answers("one", [sample(0), sample(1) + sample(2)]), Answers("two", [sample(5)])
    record = measured(tmp_path, one, two)
    assert [r.load for r in read_samples(machine_folder(tmp_path, "one") / "1" / "samples.jsonl", [])] == [0, 1, 2]
    assert [r.load for r in read_samples(machine_folder(tmp_path, "two") / "1" / "samples.jsonl", [])] == [5]
    assert record.machines["one"].outcome == "machine one: out of memory"
    assert read_fleet(tmp_path) == record


def test_a_resumed_run_asks_for_what_is_missing_alone(tmp_path: Path) -> None:
    measured(tmp_path, Answers("one", [sample(0)]))
    again = Answers("one", [sample(1)])
    measured(tmp_path, again, request=RunRequest(resume=tmp_path))
    assert again.offsets[0] == len(sample(0).encode())
    assert again.begun == [REQUEST.model_copy(update={"only_cases": (KEY,)})]
    assert [r.load for r in read_samples(machine_folder(tmp_path, "one") / "1" / "samples.jsonl", [])] == [0, 1]


@pytest.mark.parametrize("text", ["no json\n", '{"type":"sample"}\n', sample(1, key="another case")])
def test_garbage_ends_that_machine_and_keeps_what_came_before(text: str, tmp_path: Path) -> None:
    record = measured(tmp_path, Answers("bad", [sample(0), text]), Answers("good", [sample(0)]))
    assert "machine bad: sent" in (record.machines["bad"].outcome or "")
    assert record.machines["good"].outcome == "machine good: out of memory"
    assert (machine_folder(tmp_path, "bad") / "1" / "samples.jsonl").read_text(encoding="utf-8") == sample(0)


def test_a_machine_that_is_lost_leaves_its_samples_and_can_be_taken_up_again(tmp_path: Path) -> None:
    lost = Answers("lost", [sample(0), sample(1)])
    answer = lost.read

    def gone(run: str, offset: int, waiting: int) -> dict[str, str]:
        if not lost.texts:
            raise ConnectionResetError("pulled the plug")
        return answer(run, offset, waiting)

    lost.read = gone  # type: ignore[method-assign]
    record = measured(tmp_path, lost, Answers("kept", [sample(0)]))
    assert (record.machines["lost"].outcome or "").startswith("machine lost: gave no answer")
    assert record.machines["kept"].outcome == "machine kept: out of memory"
    back = Answers("lost", [sample(2)])
    record = measured(tmp_path, back, request=RunRequest(resume=tmp_path))
    assert [r.load for r in read_samples(machine_folder(tmp_path, "lost") / "1" / "samples.jsonl", [])] == [0, 1, 2]
    assert record.machines["kept"].outcome == "machine kept: is not in the fleet any more"


def test_a_machine_that_says_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmbench.fleet.connection.LOOK_WITHIN_S", 1.0)
    monkeypatch.setattr("slmbench.fleet.connection.PRESENCE_S", 0.2)
    mute = Answers("mute", [])

    async def read(run: str, offset: int, waiting: int) -> dict[str, str]:
        await asyncio.sleep(20 + offset + len(run))
        return {}

    mute.read = read  # type: ignore[method-assign, assignment]
    began = time.monotonic()
    record = measured(tmp_path, mute)
    assert time.monotonic() - began < 15
    assert record.machines["mute"].outcome == "machine mute: gave no answer: nothing in 1 s"
    assert [left.keys for left in record.not_run] == [(KEY,)]


def test_an_answer_that_is_no_message_is_refused(tmp_path: Path) -> None:
    one = Answers("one", [])
    one.about = lambda: {"json": '{"name": "../../etc"}'}  # type: ignore[method-assign]
    with pytest.raises(CannotRunError, match="its answer is not valid"):
        measured(tmp_path, one)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    one = Answers("one", [])
    opened_at = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (opened_at,))

    one.about = lambda: {"json": distributed.protocol.to_serialize(Trap())}  # type: ignore[method-assign]
    with pytest.raises(CannotRunError, match="is not from slmbench"):
        measured(tmp_path / "run", one)
    assert not opened_at.exists()


def test_another_version_is_named_and_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotRunError, match=r"old has 0\.0\.1"):
        measured(tmp_path, Answers("old", [], version="0.0.1"))


def test_two_machines_of_one_name_are_refused(tmp_path: Path) -> None:
    second = Answers("Two", [])
    second.name = "one"

    async def run() -> None:
        first, other = Answers("ONE", []), Answers("two", [])
        other.about = second.about  # type: ignore[method-assign]
        async with fleet(first, other) as link:
            await link.machines()

    with pytest.raises(CannotRunError, match="two machines are named one"):
        asyncio.run(run())


def test_machines_are_chosen_by_name_and_device(tmp_path: Path) -> None:
    def shelf() -> tuple[Answers, Answers]:
        return Answers("one", [sample(0)]), Answers("two", [sample(0)], device="npu")

    assert list(
        measured(tmp_path / "a", *shelf(), choice=MachineSelection(each_machine=True, device="npu")).machines
    ) == ["two"]
    assert list(
        measured(tmp_path / "b", *shelf(), choice=MachineSelection(each_machine=True, names=("one",))).machines
    ) == ["one"]
    with pytest.raises(BadInputError, match=r"--machines three: not in the fleet, which has: one, two"):
        measured(tmp_path / "c", *shelf(), choice=MachineSelection(each_machine=True, names=("three",)))
    with pytest.raises(CannotRunError, match="no machine with a usable gpu"):
        measured(tmp_path / "d", *shelf(), choice=MachineSelection(each_machine=True, device="gpu"))


def test_a_resumed_run_keeps_to_the_machines_that_were_chosen(tmp_path: Path) -> None:
    def shelf() -> tuple[Answers, Answers]:
        return Answers("one", [sample(0)]), Answers("two", [sample(0)])

    begun = measured(tmp_path, *shelf(), choice=MachineSelection(each_machine=True, names=("one",), device="cpu"))
    assert (begun.chosen, begun.device) == (("one",), "cpu")
    again = RunRequest(resume=tmp_path)
    record = measured(tmp_path, *shelf(), request=again, choice=MachineSelection())
    assert list(record.machines) == ["one"]
    measured(
        tmp_path, *shelf(), request=again, choice=MachineSelection(names=("one",), device="cpu", each_machine=True)
    )
    with pytest.raises(BadInputError, match="was started with --machines one, not with --machines one,two"):
        measured(tmp_path, *shelf(), request=again, choice=MachineSelection(names=("two", "one")))
    with pytest.raises(BadInputError, match="was started with --where device=cpu, not with --where device=npu"):
        measured(tmp_path, *shelf(), request=again, choice=MachineSelection(device="npu"))
    with pytest.raises(BadInputError, match="was started with --model dec-tiny, not with --model mu-tiny"):
        measured(tmp_path, *shelf(), request=RunRequest(resume=tmp_path, models=("mu-tiny",)))
    with pytest.raises(BadInputError, match="was started without --repeat, not with --repeat 3"):
        measured(tmp_path, *shelf(), request=RunRequest(resume=tmp_path, repeat=3))


def test_a_resumed_run_keeps_to_its_suite(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE, encoding="utf-8")
    measured(tmp_path / "run", Answers("one", [sample(0)]), request=RunRequest(suite=str(path)))
    path.write_text(SUITE.replace("16", "32"), encoding="utf-8")
    same = RunRequest(resume=tmp_path / "run", suite=str(path))
    with pytest.raises(BadInputError, match=r"was started with another .*mine\.yaml"):
        measured(tmp_path / "run", Answers("one", [sample(0)]), request=same)


def test_what_no_machine_can_run_is_said_before_anything_starts(tmp_path: Path) -> None:
    one = Answers("one", [])
    one.keys = ()
    with pytest.raises(CannotRunError, match="one: b lacks an NPU"):
        measured(tmp_path / "run", one)
    assert not one.begun
    assert not (tmp_path / "run").exists()


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("slmbench.fleet.connection.CONNECT_S", 0.5)
    assert run_main(["fleet", "status", "--scheduler", "127.0.0.1:9"]) == 5
    said = capsys.readouterr().err
    assert said.startswith("slmbench: error: tcp://127.0.0.1:9: no fleet scheduler answers: ")
    # Dask names its connection as a Python object.
    assert "<" not in said


@pytest.mark.parametrize(
    ("address", "certs", "insecure", "result"),
    [
        ("127.0.0.1:1", None, False, "tcp://127.0.0.1:1"),
        ("shelf:1", Path("c"), False, "tls://shelf:1"),
        ("shelf:1", None, True, "tcp://shelf:1"),
        ("shelf:1", None, False, "not encrypted"),
        ("tls://shelf:1", None, True, "use tls:// together"),
        ("shelf", None, True, "not a valid address"),
        ("tcp://shelf:x", None, True, "not a valid address"),
    ],
)
def test_addresses(address: str, certs: Path | None, insecure: bool, result: str) -> None:
    if result.startswith("t"):
        assert full_address(address, certs, insecure) == result
        return
    with pytest.raises(BadInputError, match=result):
        full_address(address, certs, insecure)


def test_a_worker_takes_no_more_than_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text("first\nsecond\nhal", encoding="utf-8")
    assert machine._lines(path, 0) == "first\nsecond\n"
    assert machine._lines(path, 6) == "second\n"
    monkeypatch.setattr(machine, "CHUNK_BYTES", 2)
    assert machine._lines(path, 0) == "first\n"
    assert machine._lines(tmp_path / "absent", 0) == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_certificates_are_made_once_and_the_key_is_its_owners(tmp_path: Path) -> None:
    assert run_main(["fleet", "certs", str(tmp_path / "certs")]) == 0
    assert stat.S_IMODE((tmp_path / "certs" / "node-key.pem").stat().st_mode) == 0o600
    assert run_main(["fleet", "certs", str(tmp_path / "certs")]) == 2


def test_certificates_of_another_fleet_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from slmbench.fleet.certs import make
    from slmbench.fleet.dask_nodes import _scheduler

    monkeypatch.setattr("slmbench.fleet.connection.CONNECT_S", 2.0)
    make(tmp_path / "ours")
    make(tmp_path / "theirs")

    async def run(folder: Path) -> list[Any]:
        async with (
            _scheduler("127.0.0.1", 0, None, tmp_path / "ours") as scheduler,
            opened(scheduler.address, folder) as link,
        ):
            return await link.machines()

    assert asyncio.run(run(tmp_path / "ours")) == []
    with pytest.raises(CannotRunError, match="no fleet scheduler answers"):
        asyncio.run(run(tmp_path / "theirs"))


@pytest.mark.slow
def test_a_fleet_of_this_machine_alone_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = ["--model", "dec-tiny", "--backend", "openvino", "--input-tokens", "16", "--output-tokens", "4"]
    assert run_main(["run", "--fleet", "local", *arguments, "--repeat", "2", "--out", str(out), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["machine"] == "local"
    assert row["ttft_s"] > 0
    assert (out / "machines" / "local" / "1" / "report.html").exists()
    assert "dec-tiny fp32" in (out / "table.md").read_text(encoding="utf-8")
    assert (out / "report.html").exists()
    assert run_main(["compare", str(out), "--format", "json"]) == 0
    (cell,) = [one for one in json.loads(capsys.readouterr().out)["cells"] if one["metric"] == "ttft"]
    assert cell["value"] == pytest.approx(row["ttft_s"], rel=1e-6)


SUITE = "name: mine\ncheckpoints: [dec-tiny]\nworkloads: [{input_tokens: [16], output_tokens: [4]}]\n"


def test_a_suite_of_ones_own_travels_as_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE, encoding="utf-8")
    one = Answers("one", [sample(0)])
    measured(tmp_path / "run", one, request=RunRequest(suite=str(path)))
    path.unlink()
    assert requested_suite(one.begun[0]).name == "mine"


def test_a_wrong_suite_file_is_refused_here_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE + "workload: 1\n", encoding="utf-8")
    one = Answers("one", [])
    with pytest.raises(BadInputError, match=r"mine\.yaml:4: workload: unknown key"):
        measured(tmp_path / "run", one, request=RunRequest(suite=str(path)))
    with pytest.raises(BadInputError, match=r"nobodys\.yaml: No such file"):
        measured(tmp_path / "run", one, request=RunRequest(suite="nobodys.yaml"))
    assert not one.begun


def test_a_machine_names_the_clients_file_in_errors() -> None:
    asked = RunRequest(suite="mine.yaml", suite_text=SUITE.replace("16", "999999"))
    with pytest.raises(CannotRunError, match=r"mine\.yaml:3: workloads: a prompt of 999999 tokens"):
        plan_request(asked)
