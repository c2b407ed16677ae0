"""A fleet of 200 simulated machines on loopback: is every case measured once, and how near the bound is the makespan?

    python benchmarks/fleet_simulation.py [--machines 200] [--cases 2000] [--kills 10] [--seconds 20]

Real: the scheduler (`slmbench fleet scheduler`), a Dask worker a machine, the machine's answers, every message and its
validation, planning into blocks, sharing, samples onto this disk as they are taken, lost machines. Each machine that
will be killed is a process of its own (SIGKILL); the others share a few.
Stand-in: what a machine is (a fingerprint and a device that it is given: cpu, gpu or npu) and its measuring process. A
thread waits for as long as a case is said to take, and writes records of known latencies as the real process would.
Wanted: every case measured once, nothing lost, makespan at most 1.25 of the bound (a kind's seconds of measuring over
its machines, as if none was killed), the client's memory flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from slmbench._version import __version__
from slmbench.case import Case, Workload
from slmbench.fleet.job_progress import TallyWriter
from slmbench.fleet.machine_server import Machine
from slmbench.fleet.messages import Planned
from slmbench.fleet.record import FleetRecord, part_folders, read_part
from slmbench.machine.devices import DeviceRow
from slmbench.machine.fingerprint import Fingerprint, collect
from slmbench.models.checkpoint import Checkpoint, Geometry
from slmbench.plan.judged_together import judged_together
from slmbench.plan.request import RunRequest
from slmbench.records.sample_writer import SampleWriter
from slmbench.records.schema import (
    RUN_NAME,
    SAMPLES_NAME,
    CaseInfo,
    LoadRecord,
    MemoryRecord,
    RunRecord,
    SampleRecord,
    read_run,
    read_samples,
    write_run,
)
from slmbench.running import events
from slmbench.terms import Device

DEVICES: tuple[Device, ...] = ("cpu", "gpu", "npu")
PAIR = ("mu", "dec")
ROUNDS = 3
#: Machines that are not killed share so many processes.
HOSTS = 4


@dataclass(frozen=True)
class World:
    """What is simulated; the same in every process."""

    machines: int
    cases: int
    kills: int
    seconds: float

    def device(self, machine: int) -> Device:
        """Return a machine's device."""
        return DEVICES[machine % len(DEVICES)]

    def planned(self, device: Device) -> list[Case]:
        """Return the cases of a device: the pair at every third workload, one of it at the others."""
        count = len(range(DEVICES.index(device), self.cases, len(DEVICES)))
        cases: list[Case] = []
        for number in range(1, count + 1):
            for model in PAIR[: 2 if number % 3 == 0 else 1]:
                work = Workload(input_tokens=number, output_tokens=8)
                cases.append(
                    Case(
                        checkpoint=model,
                        backend="stand-in",
                        device=device,
                        format="openvino",
                        exporter="slmbench",
                        weight_precision="fp32",
                        compute_precision="fp32",
                        workload=work,
                    )
                )
        return cases[:count]

    def takes_s(self, key: str) -> float:
        """Return how long a case is measured: between a third and five thirds of the mean."""
        return self.seconds * (1 / 3 + 4 / 3 * random.Random(key).random())


def checkpoint(name: str) -> Checkpoint:
    """Return one of the pair, which exists on paper alone."""
    encoder = name == "mu"
    layers = {"encoder_layers": 8 if encoder else 0, "decoder_layers": 8}
    sizes = {"vocab_size": 32128, "width": 512, "ffn_width": 2048, "ffn_matrices": 2, "heads": 8, "kv_heads": 4}
    return Checkpoint(
        name=name,
        source="catalog",
        family="encoder-decoder" if encoder else "decoder-only",
        architecture="t5" if encoder else "llama",
        parameter_count=60_000_000,
        geometry=Geometry.model_validate({**layers, **sizes, "head_dim": 64, "tied_embeddings": True}),
        digest=f"digest-of-{name}",
    )


class Measuring(threading.Thread):
    """The stand-in of a machine's measuring process: interleaved rounds of samples of known latency."""

    def __init__(self, world: World, folder: Path, request: RunRequest) -> None:
        super().__init__(daemon=True)
        self._world, self._folder, self._keys = world, folder / "run", request.only_cases
        self._ended = threading.Event()
        self.returncode: int | None = None
        self.start()

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.returncode

    def terminate(self) -> None:
        """End it."""
        self._ended.set()

    def wait(self) -> int:
        """Return when it has ended."""
        self.join()
        return self.returncode or 0

    def run(self) -> None:
        """Measure."""
        self._folder.mkdir(parents=True, exist_ok=True)
        cases = [case for device in DEVICES for case in self._world.planned(device) if case.key in set(self._keys)]
        infos = tuple(CaseInfo(case=case, checkpoint=checkpoint(case.checkpoint), engine="stand-in") for case in cases)
        record = RunRecord(
            run_id="run",
            slmbench_version=__version__,
            created="2026-01-01T00:00:00+00:00",
            seed=0,
            suite="simulation",
            plan_digest="none",
            cases=infos,
            pairs=(PAIR,),
        )
        write_run(self._folder, record)
        tally = TallyWriter(self._folder)
        tally(events.Begun(self._keys, None))
        # What was measured before this process ended and was begun again counts.
        before = read_samples(self._folder / SAMPLES_NAME, [])
        have = Counter(one.case for one in before if isinstance(one, SampleRecord))
        with SampleWriter(self._folder) as writer:
            for case in [case for case in cases if not have[case.key]]:
                writer.append(_load(case))
                writer.append(MemoryRecord(case=case.key, peak_rss_bytes=400_000_000))
            for number in range(ROUNDS):
                for case in [case for case in cases if have[case.key] <= number]:
                    if self._ended.wait(self._world.takes_s(case.key) / ROUNDS):
                        self.returncode = -15
                        return
                    writer.append(_sample(case, number, self._world.takes_s(case.key)))
                    tally(events.Judged(case.key, 1, number + 1, done=number + 1 == ROUNDS))
        write_run(self._folder, record.model_copy(update={"finished": "2026-01-01T00:00:01+00:00"}))
        tally(events.Ended())
        self.returncode = 0


def _load(case: Case) -> LoadRecord:
    return LoadRecord(
        case=case.key,
        load=0,
        pid=1,
        load_ns=1,
        first_inference_ns=1,
        warmups=2,
        stationary=True,
        agreement=1.0,
        agreement_tokens=8,
        requested_device=case.device,
        executed_on=case.device,
        compute_precision="fp32",
        threads=1,
        attention_path="SDPA",
        artifact_id="a" * 32,
        started="2026-01-01T00:00:00+00:00",
    )


def _sample(case: Case, number: int, seconds: float) -> SampleRecord:
    first = round(seconds * 1e9)
    return SampleRecord(
        case=case.key,
        load=0,
        round=number,
        started="2026-01-01T00:00:00+00:00",
        batch=1,
        input_tokens=case.workload.input_tokens,
        output_tokens=8,
        token_ns=tuple(first + 1_000_000 * token for token in range(8)),
    )


class StandIn(Machine):
    """A machine that is one of the world's, whose measuring process is :class:`Measuring`."""

    def __init__(self, world: World, number: int, here: Fingerprint) -> None:
        self._world, self._device = world, world.device(number)
        hardware = here.hardware.model_copy(update={"cpu_model": f"Simulated {self._device.upper()}"})
        row = DeviceRow(backend="stand-in", device=self._device, engine_name="E", available=True, detail="")
        super().__init__(
            f"machine-{number:03d}", devices=(row,), fingerprint=here.model_copy(update={"hardware": hardware})
        )

    async def plan(self, request: str) -> dict[str, str]:  # noqa: ARG002 (the machine's interface)
        """Answer with the device's cases."""
        cases = self._world.planned(self._device)
        keys = [case.key for case in cases]
        places = {key: place for place, key in enumerate(keys)}
        blocks = judged_together([(case, "stand-in") for case in cases], [PAIR])
        found = tuple(tuple(places[key] for key in block) for block in blocks)
        return {"json": Planned(keys=tuple(keys), blocks=found).model_dump_json()}

    def spawn(self, folder: Path, request: bytes) -> Measuring:
        """Start the stand-in of the measuring process."""
        return Measuring(self._world, folder, RunRequest.model_validate_json(request))


async def host(address: str, world: World, numbers: Sequence[int]) -> None:
    """Serve some machines in this process until it is ended."""
    from slmbench.fleet.dask_nodes import worker

    here = collect()
    async with AsyncExitStack() as stack:
        for number in numbers:
            made = StandIn(world, number, here)
            await stack.enter_async_context(worker(address, None, None, partial(_as_made, made)))
        print("ready", flush=True)
        await asyncio.Event().wait()


def _as_made(machine: StandIn, _: str | None) -> StandIn:
    return machine


@dataclass(frozen=True)
class Result:
    """What was seen."""

    record: FleetRecord
    makespan_s: float
    bound_s: float
    #: Resident memory of this process, sampled over the makespan, in MB.
    memory_mb: list[float]
    #: How often each case was measured to its end, as the parts that count say.
    measured: Counter[str]
    killed: list[str]


def bound_s(world: World) -> float:
    """Return the least time that the machines could take: each kind's seconds spread evenly over its machines."""
    kinds = Counter(world.device(number) for number in range(world.machines))
    spread = [sum(world.takes_s(case.key) for case in world.planned(device)) / kinds[device] for device in kinds]
    return max(spread)


def check(folder: Path, record: FleetRecord, world: World) -> Counter[str]:
    """Count how often each case was measured to its end, and hold its samples against the known latencies."""
    counted: Counter[str] = Counter()
    for name, member in record.machines.items():
        together = [{member.keys[place] for place in block} for block in member.blocks]
        for path in part_folders(folder, name):
            done = set(read_part(path).done)
            whole = {key for block in together if block <= done for key in block}
            counted.update(whole)
            samples = [one for one in read_samples(path / SAMPLES_NAME, []) if isinstance(one, SampleRecord)]
            taken = Counter(one.case for one in samples)
            assert all(taken[key] == ROUNDS for key in whole), f"{path}: samples are missing"
            assert all(one.token_ns[0] == round(world.takes_s(one.case) * 1e9) for one in samples), path
            if (path / RUN_NAME).exists():
                read_run(path)
    return counted


def shared_out(world: World) -> tuple[list[int], list[list[int]]]:
    """Return the machines to kill, of each kind in turn, and all machines by process: those have one each."""
    victims = [len(DEVICES) * number + number % len(DEVICES) for number in range(world.kills)]
    rest = [number for number in range(world.machines) if number not in victims]
    return victims, [[number] for number in victims] + [rest[at::HOSTS] for at in range(HOSTS) if rest[at::HOSTS]]


async def simulate(world: World, folder: Path, cache: Path, say: bool = True) -> Result:
    """Start the world's processes, run the client here, and count what came back."""
    from slmbench.fleet.client import linked, run_on_fleet
    from slmbench.fleet.selection import MachineSelection

    environment = {**os.environ, "SLMBENCH_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes: list[subprocess.Popen[str]] = []

    def started(*command: str) -> subprocess.Popen[str]:
        one = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment)
        processes.append(one)
        return one

    try:
        scheduler = started("-P", "-m", "slmbench", "fleet", "scheduler", "--port", "0")
        assert scheduler.stdout is not None
        address = scheduler.stdout.readline().split()[-1]
        victims, groups = shared_out(world)
        told = json.dumps(world.__dict__)
        hosts = [started(__file__, "--host", address, told, ",".join(map(str, group))) for group in groups]
        for one in hosts:
            assert one.stdout is not None
            await asyncio.to_thread(one.stdout.readline)
        begun: list[float] = []
        memory: list[float] = []

        def told_line(text: str) -> None:
            if "can run" in text:
                begun[:] = [time.monotonic()]
            elif say:
                print(text, flush=True)

        async def look() -> None:
            while True:
                memory.append(psutil.Process().memory_info().rss / 1e6)
                await asyncio.sleep(0.5)

        async def kill() -> None:
            while not begun:
                await asyncio.sleep(0.1)
            for number, victim in enumerate(hosts[: world.kills], 1):
                # Over the first seven tenths: what is lost last has to fit in behind.
                await asyncio.sleep(max(0.0, begun[0] + 0.7 * bound_s(world) * number / world.kills - time.monotonic()))
                victim.kill()

        async with linked(address, None, insecure=False) as link:
            tasks = [asyncio.create_task(look()), asyncio.create_task(kill())]
            request = RunRequest(models=("dec-tiny",))
            record = await run_on_fleet(link, request, folder, MachineSelection(), told_line)
            makespan = time.monotonic() - begun[0]
            for task in tasks:
                task.cancel()
        names = [f"machine-{number:03d}" for number in victims]
        return Result(record, makespan, bound_s(world), memory, check(folder, record, world), names)
    finally:
        for one in processes:
            one.kill()
        for one in processes:
            one.wait()


def main() -> int:
    """Run, print the figures and return 1 when one of the wishes is not fulfilled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=200)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0, help="a case's mean")
    parser.add_argument("--host", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.host:
        address, told, numbers = asked.host
        asyncio.run(host(address, World(**json.loads(told)), [int(number) for number in numbers.split(",")]))
        return 0
    world = World(asked.machines, asked.cases, asked.kills, asked.seconds)
    with tempfile.TemporaryDirectory() as place:
        found = asyncio.run(simulate(world, Path(place) / "run", Path(place) / "cache"))
    ratio, memory = found.makespan_s / found.bound_s, found.memory_mb
    once = sum(times == 1 for times in found.measured.values())
    lost = sum(bool(found.record.machines[name].outcome) for name in found.killed)
    print(f"cases measured once: {once} of {world.cases}; more often: {len(found.measured) - once}")
    print(f"machines killed and noticed: {lost} of {world.kills}; cases not run: {len(found.record.not_run)}")
    print(f"makespan {found.makespan_s:.1f} s, bound {found.bound_s:.1f} s: ratio {ratio:.3f}")
    print(f"client memory, MB: start {memory[0]:.0f}, middle {memory[len(memory) // 2]:.0f}, end {memory[-1]:.0f}")
    good = once == world.cases and not found.record.not_run and ratio <= 1.25
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
