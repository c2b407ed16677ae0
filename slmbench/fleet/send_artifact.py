"""The client's side of artifacts: what a machine lacks and cannot make is made here, and sent to it in pieces."""

from __future__ import annotations

import asyncio
import platform
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from slmbench.errors import CannotRunError, SlmbenchError
from slmbench.export.artifact_store import find_artifact
from slmbench.export.routes import made_alike
from slmbench.fleet.connection import Link, Reached
from slmbench.fleet.machine_job import cannot_make
from slmbench.fleet.messages import Holding, Needed, Planned, Receiving, Wanted
from slmbench.fleet.send_files import bring
from slmbench.fleet.transfer_format import PIECE_BYTES, Content, difference, packed
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.request import RunRequest, requested_suite, resolve_all
from slmbench.running.artifacts import export_in_child

Say = Callable[[str], None]
#: Seconds until a machine that is busy, or exports, is asked again.
AGAIN_S = 2.0
#: A transfer begins again this often, and a piece is sent this often, before it is given up.
TRIES = 3
#: Pieces on the way at the same time, over all machines: the scheduler holds each for a moment.
PIECES_AT_ONCE = 4
#: From this size on a transfer tells how far it is, each quarter.
TELL_BYTES = 64 * 2**20


class LacksError(CannotRunError):
    """A machine answers, and cannot have an artifact. ``keys``: the cases that need it."""

    def __init__(self, message: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.keys = keys


@dataclass(frozen=True)
class _Seen:
    """Whose bytes of an artifact were seen."""

    who: str
    arch: str
    held: Holding


def described(request: RunRequest) -> RunRequest:
    """Return the request with what the client knows of those of its checkpoints that no other machine can resolve.

    Raises:
        BadInputError: the request, or a checkpoint, is wrong.
        CannotRunError: a Hub checkpoint cannot be had.
    """
    found = resolve_all(requested_suite(request), request)
    return request.model_copy(
        update={"checkpoints": tuple((name, one) for name, one in found.items() if one.source != "catalog")}
    )


class Supply:
    """Sees to it that machines have the artifacts of their cases, each once. One for a run."""

    def __init__(self, link: Link, request: RunRequest, say: Say) -> None:
        self._link, self._request, self._say = link, request, say
        self._checkpoints: dict[str, Checkpoint] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._ready: set[tuple[str, str]] = set()
        self._told: set[str] = set()
        self._seen: dict[str, list[_Seen]] = defaultdict(list)
        self._packed: dict[str, tuple[Artifact, Content]] = {}
        #: One export or packing at a time: the client may be a small machine itself.
        self._packing = asyncio.Lock()
        self._on_the_way = asyncio.Semaphore(PIECES_AT_ONCE)

    async def possible(self, planned: Planned) -> Planned:
        """Return the plan without the cases whose artifact neither its machine nor this one has or can make.

        Each such artifact is a line of what is left out, with both sides' reasons.

        Raises:
            CannotRunError: the plan needs a checkpoint that the request does not have.
        """
        lacking, missing = set[str](), list[str]()
        for need in planned.needs:
            if need.state != "lacks":
                continue
            checkpoint = await self._checkpoint(need)
            why = await asyncio.to_thread(_not_here, checkpoint, need.spec)
            if why is not None:
                lacking.update(need.keys)
                missing.append(f"{_named(checkpoint, need.spec)}: there {need.why}; here {why}")
        for line in missing:
            if line not in self._told:
                self._told.add(line)
                self._say(f"left out: {line}")
        return planned.without(lacking, missing) if missing else planned

    async def ready(self, at: Reached, needs: Sequence[Needed], keys: Collection[str]) -> None:
        """Return when the machine has every artifact that the cases need.

        Raises:
            LacksError: it cannot have one, or has other bytes of it than another machine.
            CannotRunError: it gives no answer, or none that makes sense.
        """
        await self.files(at)
        for need in needs:
            place = (at.address, need.artifact_id())
            if not set(need.keys) & set(keys):
                continue
            async with self._locks[place]:
                if place not in self._ready:
                    try:
                        await self._have(at, need)
                    except LacksError as error:
                        raise LacksError(str(error), need.keys) from error
                    self._ready.add(place)

    async def files(self, at: Reached) -> None:
        """Return when the machine has the prompts and tokenizers of the request.

        Raises:
            BadInputError: one is no longer on this machine.
            CannotRunError: the machine cannot have one, or gives no answer.
        """
        for one in self._request.carried:
            place = (at.address, one.sha256)
            async with self._locks[place]:
                if place not in self._ready:
                    sent = await bring(self._link, at, one)
                    if sent:
                        self._say(f"{at.about.name}: {one.name}: is there, {sent / 1e6:.1f} MB sent")
                    self._ready.add(place)

    async def send(self, at: Reached, artifact: Artifact, content: Content) -> int:
        """Send what a machine lacks of an artifact and return the bytes that were sent.

        Raises:
            LacksError: the machine refuses it, or gets other bytes than were sent.
            CannotRunError: it gives no answer, or none that makes sense.
        """
        what = f"{at.about.name}: {_named(content.manifest.checkpoint, content.manifest.spec)}"
        whole = content.size_bytes
        answer, sent, damaged, offers, told = None, 0, 0, 0, -1
        while True:
            if answer is None or answer.state in ("busy", "unknown"):
                if answer is not None and answer.state == "busy":
                    await asyncio.sleep(AGAIN_S)
                else:
                    offers += 1
                if offers > TRIES:
                    raise LacksError(f"{what}: did not arrive in {TRIES} tries: {answer.why if answer else ''}")
                answer = await self._call(at, "offer", parcel=content.parcel.model_dump_json())
            if answer.state == "refused":
                raise LacksError(f"{what}: is refused: {answer.why}")
            if answer.state == "here":
                self._say(f"{what}: is there, {sent / 1e6:.1f} MB sent")
                return sent
            if answer.state != "wants":
                continue
            quarter = 4 * (whole - answer.missing_bytes) // max(whole, 1)
            if told < 0 or (quarter > told and whole >= TELL_BYTES):
                self._say(f"{what}: {25 * quarter} % of {whole / 1e6:.1f} MB")
                told = quarter
            key = (answer.file, answer.index)
            if not key[1] < len(content.parcel.pieces.get(key[0], ())) or sent > TRIES * (whole + PIECE_BYTES):
                raise CannotRunError(f"{what}: asks for more than there is")
            async with self._on_the_way:
                data = await asyncio.to_thread(content.read, artifact.folder, key)
                answer = await self._call(at, "piece", content=content.digest, file=key[0], index=key[1], data=data)
            sent += len(data)
            damaged = damaged + 1 if answer.damaged else 0
            if damaged:
                self._say(f"{what}: piece {key[1]} of {key[0]} arrived changed; sent again")
            if damaged >= TRIES:
                raise LacksError(f"{what}: piece {key[1]} of {key[0]} arrives changed each time")

    async def _call(self, at: Reached, op: str, **fields: str | int | bytes) -> Receiving:
        return await self._link.call(at.address, Receiving, at.about.name, op=op, **fields)

    async def _have(self, at: Reached, need: Needed) -> None:
        name, checkpoint = at.about.name, await self._checkpoint(need)
        wanted = Wanted(
            checkpoint=checkpoint, spec=need.spec, trust_remote_code=self._request.trust_remote_code
        ).model_dump_json()
        what, told = f"{name}: {_named(checkpoint, need.spec)}", ""
        while True:
            held = await self._link.call(at.address, Holding, name, op="artifact", wanted=wanted)
            if held.state == "here":
                await self._compare(at, need, checkpoint, held)
                return
            if held.state == "lacks":
                break
            text = "is exported there" if held.state == "makes" else f"waits for {held.why or 'another run'} to end"
            if text != told:
                self._say(f"{what}: {text}")
                told = text
            await asyncio.sleep(AGAIN_S)
        try:
            artifact, content = await self._pack(checkpoint, need.spec)
        except SlmbenchError as error:
            raise LacksError(f"machine {what}: lacking there ({held.why}) and here: {error}") from error
        await self.send(at, artifact, content)

    async def _compare(self, at: Reached, need: Needed, checkpoint: Checkpoint, held: Holding) -> None:
        """Refuse a machine whose artifact differs, where the same weights and versions make the same bytes."""
        seen = self._seen[need.artifact_id()]
        if not seen:
            own = await asyncio.to_thread(find_artifact, checkpoint, need.spec)
            if own is not None:
                mine = Holding(state="here", files=own.manifest.files, versions=own.manifest.versions)
                seen.append(_Seen("this machine", platform.machine(), mine))
        now = _Seen(at.about.name, at.about.fingerprint.hardware.arch, held)
        for other in seen:
            alike = other.arch == now.arch and made_alike(need.spec, other.held.versions, held.versions)
            file = difference(other.held.files, held.files) if alike else None
            if file is not None:
                what, remedy = _named(checkpoint, need.spec), f"slmbench cache clean {need.artifact_id()[:12]}"
                raise LacksError(
                    f"machine {now.who}: its {what} differs from that of {other.who} in {file}, though the same "
                    f"versions made both; `{remedy}` on the wrong one"
                )
        seen.append(now)

    async def _pack(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> tuple[Artifact, Content]:
        key = spec.artifact_id(checkpoint.digest)
        async with self._packing:
            if key not in self._packed:
                self._packed[key] = await asyncio.to_thread(self._exported, checkpoint, spec)
            return self._packed[key]

    def _exported(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> tuple[Artifact, Content]:
        artifact = find_artifact(checkpoint, spec)
        if artifact is None:
            why = cannot_make(checkpoint, spec)
            if why is not None:
                raise CannotRunError(why)
            artifact = export_in_child(checkpoint, spec, self._request, self._say)
        return artifact, packed(artifact)

    async def _checkpoint(self, need: Needed) -> Checkpoint:
        """Return the checkpoint that a machine names by its digest: with its files, where they are on this machine.

        Raises:
            CannotRunError: the request has no such checkpoint.
        """
        if not self._checkpoints:
            self._checkpoints = await asyncio.to_thread(_by_digest, self._request)
        try:
            return self._checkpoints[need.checkpoint_digest]
        except KeyError:
            raise CannotRunError("a machine needs an artifact of a checkpoint that it was not asked for") from None


def _by_digest(request: RunRequest) -> dict[str, Checkpoint]:
    """Return the request's checkpoints as they are here, by digest; of a resumed run they may be gone by now."""
    known = {one.digest: one for _, one in request.checkpoints}
    try:
        found = resolve_all(requested_suite(request), request.model_copy(update={"checkpoints": ()}))
    except SlmbenchError:
        found = resolve_all(requested_suite(request), request)
    return {**known, **{one.digest: one for one in found.values()}}


def _not_here(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    return None if find_artifact(checkpoint, spec, hashes=False) is not None else cannot_make(checkpoint, spec)


def _named(checkpoint: Checkpoint, spec: ArtifactSpec) -> str:
    return f"{checkpoint.name} {spec.label()}"
