"""An artifact of 500 MB to three machines of a fleet on loopback: each once, one killed on the way, one byte flipped.

    python benchmarks/fleet_artifact.py [--mb 500]

Scheduler and workers are real processes, each worker with a store of its own. Only the way is meant: the artifact's
weights are random bytes in a file, and no engine opens them. Exit code 0 when every machine holds the very bytes,
what was sent is no more than one artifact a machine and what the kill and the flipped byte cost, and the flip was seen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slmbench.errors import CannotRunError
from slmbench.export.artifact_store import artifacts_dir, write_manifest
from slmbench.fleet.connection import Link, Reached, opened
from slmbench.fleet.messages import M, Needed
from slmbench.fleet.send_artifact import Supply
from slmbench.fleet.transfer_format import PIECE_BYTES
from slmbench.models.artifact import (
    GOLDEN_NAME,
    Artifact,
    ArtifactSpec,
    FileEntry,
    GoldenRecord,
    Manifest,
    damage,
    read_artifact,
)
from slmbench.models.checkpoint import Checkpoint, resolve
from slmbench.plan.request import RunRequest
from slmbench.system.digests import sha256_of

MACHINES = ("one", "two", "three")
KILLED, FLIPPED = "two", "three"
SPEC = ArtifactSpec(format="openvino")
KEYS = ("a case", "another case")


class Wire:
    """A link that counts the bytes of pieces, flips a bit of one of them, and tells when half is through."""

    def __init__(self, link: Link, whole: int) -> None:
        self._link, self._whole = link, whole
        self.sent = dict.fromkeys(MACHINES, 0)
        self.half = asyncio.Event()
        self.flips = 0

    async def call(self, address: str, kind: type[M], machine: str, *, op: str, **fields: str | int | bytes) -> M:
        """Ask one machine, as :meth:`Link.call` does."""
        data = fields.get("data")
        if isinstance(data, bytes):
            self.sent[machine] += len(data)
            if machine == FLIPPED and not self.flips and self.sent[machine] > self._whole / 3:
                self.flips += 1
                fields["data"] = data[:-1] + bytes([data[-1] ^ 1])
        answer = await self._link.call(address, kind, machine, op=op, **fields)
        if self.sent[KILLED] > self._whole / 2:
            self.half.set()
        return answer


def checkpoint() -> Checkpoint:
    """Return a checkpoint that is on no machine: a machine without its artifact must be sent it."""
    changes = {"name": "random-bytes", "source": "folder", "digest": os.urandom(32).hex()}
    return resolve("dec-tiny").model_copy(update=changes)


def write_artifact(model: Checkpoint, megabytes: int) -> Artifact:
    """Write an artifact of that size into this process's store."""
    folder = artifacts_dir() / SPEC.artifact_id(model.digest)
    folder.mkdir(parents=True)
    (folder / "model.xml").write_text("<net/>", encoding="utf-8")
    (folder / GOLDEN_NAME).write_text(GoldenRecord(prompts=(), versions={}).model_dump_json(), encoding="utf-8")
    with (folder / "model.bin").open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(10**6))
    entries = tuple(
        FileEntry(path=path.name, size_bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.iterdir())
    )
    manifest = Manifest(
        artifact_id=folder.name, spec=SPEC, checkpoint=model, graphs={"model": "model.xml"}, files=entries,
        attention="none", decode_weight_bytes=1, versions={}, created="", export_seconds=0,
    )  # fmt: skip
    write_manifest(folder, manifest.model_dump_json().encode())
    return Artifact(folder, manifest)


def started(arguments: list[str], cache: Path) -> tuple[subprocess.Popen[str], str]:
    """Start ``slmbench fleet ...`` and return it with the first line it prints."""
    command = [sys.executable, "-m", "slmbench", "fleet", *arguments]
    environment = {**os.environ, "SLMBENCH_CACHE": str(cache)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def worker(address: str, name: str, folder: Path) -> subprocess.Popen[str]:
    """Start a machine with a store of its own; returns when it answers."""
    process, line = started(["worker", "--scheduler", address, "--name", name], folder / name)
    assert line.startswith("machine"), line
    return process


async def sent(
    link: Link, artifact: Artifact, address: str, workers: dict[str, subprocess.Popen[str]], folder: Path
) -> Wire:
    """Send the artifact to all, kill one half way, start it again, and send it the rest."""
    whole, wire = artifact.size_bytes(), Wire(link, artifact.size_bytes())
    model = artifact.manifest.checkpoint
    request = RunRequest(models=(model.name,), checkpoints=((model.name, model),))
    need = Needed(checkpoint_digest=model.digest, spec=SPEC, keys=KEYS, state="lacks", why="")
    # The wire counts and damages what a link carries, and stands in for one.
    supply = Supply(wire, request, lambda text: print(f"  {text}", flush=True))  # type: ignore[arg-type]  # a Wire, no Link

    async def ready(at: Reached) -> None:
        # Two chunks of cases ask for it at the same time; it is sent once.
        await asyncio.gather(*(supply.ready(at, [need], [key]) for key in KEYS))

    async def kill() -> None:
        await wire.half.wait()
        workers[KILLED].kill()
        workers[KILLED].wait()

    machines = {one.about.name: one for one in await link.machines()}
    *answers, _ = await asyncio.gather(*(ready(machines[name]) for name in MACHINES), kill(), return_exceptions=True)
    lost = {name: answer for name, answer in zip(MACHINES, answers, strict=True) if answer is not None}
    print(f"killed: {lost}")
    assert list(lost) == [KILLED]
    assert isinstance(lost[KILLED], CannotRunError)
    before = wire.sent[KILLED]
    workers[KILLED] = await asyncio.to_thread(worker, address, KILLED, folder)
    again = next(one for one in await link.machines() if one.about.name == KILLED)
    await ready(again)
    print(f"{KILLED}: {before / 1e6:.1f} MB before it was killed, {(wire.sent[KILLED] - before) / 1e6:.1f} MB after")
    assert wire.sent[KILLED] - before < whole
    return wire


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mb", type=int, default=500)
    megabytes = parser.parse_args().mb
    with tempfile.TemporaryDirectory(dir=os.environ.get("SLMBENCH_CACHE")) as temporary:
        folder = Path(temporary)
        os.environ["SLMBENCH_CACHE"] = str(folder / "client")
        artifact = write_artifact(checkpoint(), megabytes)
        scheduler, line = started(["scheduler", "--port", "0"], folder)
        address, workers = line.removeprefix("scheduler at "), {}
        try:
            for name in MACHINES:
                workers[name] = worker(address, name, folder)

            async def run() -> Wire:
                async with opened(address, None) as link:
                    return await sent(link, artifact, address, workers, folder)

            began = time.perf_counter()
            wire = asyncio.run(run())
            seconds = time.perf_counter() - began
        finally:
            for process in (*workers.values(), scheduler):
                process.kill()
                process.wait()
        return judged(artifact, wire, folder, seconds)


def judged(artifact: Artifact, wire: Wire, folder: Path, seconds: float) -> int:
    """Print what was sent and what arrived, and return the exit code."""
    whole, total = artifact.size_bytes(), sum(wire.sent.values())
    once = len(MACHINES) * whole
    print(f"sent in all {total / 1e6:.1f} MB in {seconds:.1f} s; once to each is {once / 1e6:.1f} MB")
    print(f"more than once: {(total - once) / 1e6:.1f} MB (the flipped piece, and what was on the way at the kill)")
    wrong = []
    for name in MACHINES:
        stored = read_artifact(folder / name / "artifacts" / artifact.folder.name)
        if damage(stored) or stored.manifest.files != artifact.manifest.files:
            wrong.append(name)
    print(f"hashes: {', '.join(wrong) + ' differ' if wrong else 'every file on every machine as it was written'}")
    print(f"flipped bytes: {wire.flips}, and the artifact of {FLIPPED} is {'wrong' if FLIPPED in wrong else 'right'}")
    return int(bool(wrong) or total - once > 3 * PIECE_BYTES or wire.flips != 1)


if __name__ == "__main__":
    sys.exit(main())
