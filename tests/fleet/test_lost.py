"""Machines that leave, forget or come while a run goes on; clients that go away. Measuring is a wait."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from test_simulation import simulation

from slmbench.errors import BadInputError
from slmbench.fleet import send_artifact as artifacts
from slmbench.fleet.client import run_on_fleet
from slmbench.fleet.connection import opened
from slmbench.fleet.messages import Holding, Needed, Planned, Wanted
from slmbench.fleet.record import FleetRecord, machine_folder, part_folders, read_fleet, read_part
from slmbench.fleet.selection import MachineSelection
from slmbench.machine.fingerprint import collect
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import resolve
from slmbench.plan.request import RunRequest

distributed = pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
__all__ = ["simulation"]


class Shelf:
    """Simulated machines in this process, by number; those of one device are equal."""

    def __init__(self, simulation: Any, folder: Path, seconds: float = 0.3, cases: int = 12) -> None:
        self.simulation = simulation
        self.world = simulation.World(machines=0, cases=cases, kills=0, seconds=seconds)
        self.folder = folder
        self.heard: list[str] = []
        self._workers: dict[int, AsyncExitStack] = {}

    async def __aenter__(self) -> Shelf:
        self._stack = AsyncExitStack()
        self.scheduler = await self._stack.enter_async_context(
            distributed.Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0", dashboard=False)
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        for number in [*self._workers]:
            await self.leave(number)
        await self._stack.aclose()

    async def come(self, number: int, plan: Callable[[Planned], Planned] | None = None) -> None:
        """Let a machine come; ``plan`` changes what it says that it can run."""
        from slmbench.fleet.dask_nodes import worker

        made = self.simulation.StandIn(self.world, number, collect())
        if plan is not None:
            made.plan = changed_plan(made.plan, plan)
            made.handlers = lambda own=made.handlers: {**own(), "slmbench_artifact": lacks}
        self._workers[number] = AsyncExitStack()
        await self._workers[number].enter_async_context(worker(self.scheduler.address, None, None, lambda _: made))

    async def leave(self, number: int) -> None:
        await self._workers.pop(number).aclose()

    async def run(self, *, resume: bool = False, **choice: Any) -> FleetRecord:
        request = RunRequest(resume=self.folder) if resume else RunRequest(models=("dec-tiny",))
        async with opened(self.scheduler.address, None) as link:
            return await run_on_fleet(link, request, self.folder, MachineSelection(**choice), self.heard.append)

    async def samples(self, name: str) -> None:
        """Return when the first sample of a machine is on the client's disk."""
        while not any(path.stat().st_size for path in machine_folder(self.folder, name).glob("*/samples.jsonl")):
            await asyncio.sleep(0.05)

    def outcomes(self, name: str) -> list[str | None]:
        return [read_part(path).outcome for path in part_folders(self.folder, name)]

    def counted(self) -> set[tuple[str, int]]:
        """Return how often each case was measured to its end; samples are checked."""
        found = self.simulation.check(self.folder, read_fleet(self.folder), self.world)
        return set(found.items())

    def once(self, *devices: str) -> set[tuple[str, int]]:
        return {(case.key, 1) for device in devices for case in self.world.planned(device)}


@pytest.fixture
def on_shelf(simulation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Shelf]:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "cache"))

    def run(story: Callable[[Shelf], Awaitable[None]], **world: Any) -> Shelf:
        async def whole() -> Shelf:
            async with Shelf(simulation, tmp_path / "run", **world) as shelf:
                await story(shelf)
            return shelf

        return asyncio.run(whole())

    return run


Answer = Callable[[str], Awaitable[dict[str, str]]]


def changed_plan(own: Answer, change: Callable[[Planned], Planned]) -> Answer:
    async def plan(request: str) -> dict[str, str]:
        planned = Planned.model_validate_json((await own(request))["json"])
        return {"json": change(planned).model_dump_json()}

    return plan


def lacks(wanted: str) -> dict[str, str]:
    assert Wanted.model_validate_json(wanted)
    return {"json": Holding(state="lacks", why="its exporter failed").model_dump_json()}


async def cut_off(shelf: Shelf, name: str) -> None:
    """Begin a run, and let its client go away after the first samples of a machine."""
    task = asyncio.create_task(shelf.run())
    await shelf.samples(name)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_machine_that_comes_takes_what_a_lost_one_left(on_shelf: Callable[..., Shelf]) -> None:
    async def story(shelf: Shelf) -> None:
        await shelf.come(0)
        await shelf.come(1)
        task = asyncio.create_task(shelf.run())
        await shelf.samples("machine-000")
        await shelf.leave(0)
        await shelf.come(3)
        record = await task
        assert record.not_run == ()
        assert "machine-000" in (record.machines["machine-000"].outcome or "")

    shelf = on_shelf(story, seconds=1.0)
    assert "machine-003: has joined and takes work" in shelf.heard
    assert shelf.outcomes("machine-003") == [""]
    assert shelf.counted() == shelf.once("cpu", "gpu")


def test_equal_machines_share_what_both_can_run(on_shelf: Callable[..., Shelf]) -> None:
    def half(planned: Planned) -> Planned:
        # A block left whole, a block cut in two, a block gone.
        return planned.without(planned.keys[3:], ["lacks an engine"])

    async def story(shelf: Shelf) -> None:
        await shelf.come(0, half)
        await shelf.come(3)
        assert (await shelf.run()).not_run == ()

    shelf = on_shelf(story)
    assert shelf.outcomes("machine-000") == [""]
    assert shelf.counted() == shelf.once("cpu")


def test_a_machine_that_cannot_have_an_artifact_measures_what_needs_others(
    on_shelf: Callable[..., Shelf], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = resolve("dec-tiny").digest
    monkeypatch.setattr(artifacts, "cannot_make", lambda *_: "no exporter is here")

    def needing(planned: Planned) -> Planned:
        spec = ArtifactSpec(format="onnx", exporter="slmbench", weight_precision="fp32")
        need = Needed(checkpoint_digest=digest, spec=spec, keys=planned.keys[:1], state="makes")
        return planned.model_copy(update={"needs": (need,)})

    async def alone(shelf: Shelf) -> None:
        await shelf.come(0, needing)
        record = await shelf.run()
        (left,) = record.not_run
        assert "its exporter failed" in left.reason
        assert "no exporter is here" in left.reason
        assert set(left.keys) == {key for key, _ in shelf.once("cpu") - shelf.counted()}
        assert record.machines["machine-000"].outcome == ""
        assert "its exporter failed" in record.machines["machine-000"].left_out[-1]
        # It is no failure of the cases: another machine may take them.
        await shelf.come(3)
        assert (await shelf.run(resume=True)).not_run == ()

    shelf = on_shelf(alone)
    assert shelf.counted() == shelf.once("cpu")


def test_a_machine_that_was_not_chosen_takes_nothing_of_a_resumed_run(on_shelf: Callable[..., Shelf]) -> None:
    async def story(shelf: Shelf) -> None:
        await shelf.come(0)
        await shelf.come(3)
        task = asyncio.create_task(shelf.run(names=("machine-000",)))
        await shelf.samples("machine-000")
        await shelf.leave(0)
        assert (await task).not_run
        record = await shelf.run(resume=True)
        assert list(record.machines) == ["machine-000"]
        assert record.not_run

    shelf = on_shelf(story)
    assert any("machine-003 is not part of this run: not selected" in line for line in shelf.heard)


def test_what_nobody_is_left_for_is_listed_and_taken_up_by_resume(on_shelf: Callable[..., Shelf]) -> None:
    async def story(shelf: Shelf) -> None:
        await shelf.come(0)
        task = asyncio.create_task(shelf.run())
        await shelf.samples("machine-000")
        await shelf.leave(0)
        (left,) = (await task).not_run
        assert left.machines == ("machine-000",)
        assert "machine-000" in left.reason
        assert {(key, 1) for key in left.keys} | shelf.counted() == shelf.once("cpu")
        await shelf.come(0)
        assert (await shelf.run(resume=True)).not_run == ()

    shelf = on_shelf(story)
    # Its own part, where it stopped.
    assert shelf.outcomes("machine-000") == [""]
    assert shelf.counted() == shelf.once("cpu")


def test_a_client_that_returns_reads_on(on_shelf: Callable[..., Shelf]) -> None:
    async def story(shelf: Shelf) -> None:
        await shelf.come(0)
        await cut_off(shelf, "machine-000")
        assert shelf.outcomes("machine-000") == [None]
        await shelf.run(resume=True)

    shelf = on_shelf(story)
    assert shelf.outcomes("machine-000") == [""]
    assert shelf.counted() == shelf.once("cpu")


def test_a_machine_whose_cache_was_wiped_measures_anew(on_shelf: Callable[..., Shelf], tmp_path: Path) -> None:
    async def story(shelf: Shelf) -> None:
        await shelf.come(0)
        await cut_off(shelf, "machine-000")
        await shelf.leave(0)
        shutil.rmtree(tmp_path / "cache")
        await shelf.come(0)
        assert (await shelf.run(resume=True)).not_run == ()

    shelf = on_shelf(story)
    lost, again = shelf.outcomes("machine-000")
    assert lost == "machine machine-000: no longer has what it had measured"
    assert again == ""
    assert shelf.counted() == shelf.once("cpu")


def test_the_cases_of_a_machine_that_is_gone_for_good_go_to_an_equal_one(on_shelf: Callable[..., Shelf]) -> None:
    async def story(shelf: Shelf) -> None:
        await shelf.come(0)
        await cut_off(shelf, "machine-000")
        await shelf.leave(0)
        await shelf.come(1)
        await shelf.come(3)
        assert (await shelf.run(resume=True)).not_run == ()

    shelf = on_shelf(story)
    assert shelf.outcomes("machine-003") == [""]
    assert shelf.outcomes("machine-001") == []
    assert shelf.counted() == shelf.once("cpu")


def test_each_machine_measures_everything_where_asked(on_shelf: Callable[..., Shelf]) -> None:
    async def story(shelf: Shelf) -> None:
        await shelf.come(0)
        await shelf.come(3)
        await shelf.run(each_machine=True)

    shelf = on_shelf(story, seconds=0.1)
    assert shelf.counted() == {(key, 2) for key, _ in shelf.once("cpu")}


def test_a_run_of_an_earlier_layout_is_not_resumed(on_shelf: Callable[..., Shelf]) -> None:
    async def story(shelf: Shelf) -> None:
        await shelf.come(0)
        await cut_off(shelf, "machine-000")
        own = machine_folder(shelf.folder, "machine-000")
        (own / "1" / "samples.jsonl").rename(own / "samples.jsonl")
        with pytest.raises(BadInputError, match="was measured by an earlier slmbench; it can be read"):
            await shelf.run(resume=True)

    on_shelf(story)
