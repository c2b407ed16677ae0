"""The client's side of artifacts: what a machine does not have and cannot make is made here and sent."""

from __future__ import annotations

import asyncio
import platform
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from slmbench.errors import BadInputError, CannotRunError, SlmbenchError
from slmbench.export.artifact_store import find_artifact
from slmbench.export.routes import made_alike
from slmbench.fleet import send_files
from slmbench.fleet.connection import Link, Reached
from slmbench.fleet.machine_job import cannot_make
from slmbench.fleet.messages import Holding, Needed, Planned, Wanted
from slmbench.fleet.send_files import LacksError, Say, Sender
from slmbench.fleet.transfer_format import Parcel, difference, parcel_of
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.request import RunRequest, requested_suite, resolve_all
from slmbench.plan.sent_files import Carried, arrived
from slmbench.running.artifacts import export_in_child


@dataclass(frozen=True)
class _Seen:
    """The files of an artifact on one machine."""

    who: str
    arch: str
    held: Holding


def described(request: RunRequest) -> RunRequest:
    """Return the request with descriptions of the checkpoints that other machines cannot resolve themselves.

    Raises:
        BadInputError: the request, or a checkpoint, is wrong.
        CannotRunError: a Hub checkpoint cannot be had.
    """
    found = resolve_all(requested_suite(request), request)
    return request.model_copy(
        update={"checkpoints": tuple((name, one) for name, one in found.items() if one.source != "catalog")}
    )


class Supply:
    """Makes sure that machines have the artifacts of their cases. One for a run."""

    def __init__(self, link: Link, request: RunRequest, say: Say) -> None:
        self._link, self._request, self._say = link, request, say
        self._checkpoints: dict[str, Checkpoint] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._ready: set[tuple[str, str]] = set()
        self._reported: set[str] = set()
        self._seen: dict[str, list[_Seen]] = defaultdict(list)
        self._made_here: dict[str, Artifact] = {}
        #: One export at a time: the client may be a small machine itself.
        self._making = asyncio.Lock()
        self._sender = Sender(link, say)

    async def possible(self, planned: Planned) -> Planned:
        """Return the plan without the cases whose artifact neither its machine nor this one has or can make.

        Each such artifact is a line of what is left out, with the reasons of both.

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
                missing.append(f"{_named(checkpoint, need.spec)}: there: {need.why}; here: {why}")
        for line in missing:
            if line not in self._reported:
                self._reported.add(line)
                self._say(f"left out: {line}")
        return planned.without(lacking, missing) if missing else planned

    async def ready(self, at: Reached, needs: Sequence[Needed], keys: Collection[str]) -> None:
        """Return when the machine has every artifact that the cases need.

        Raises:
            LacksError: it cannot get one, or its bytes differ from those of another machine.
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
            CannotRunError: the machine cannot get one, or gives no answer.
        """
        for one in self._request.carried:
            place = (at.address, one.sha256)
            async with self._locks[place]:
                if place not in self._ready:
                    try:
                        # The client's copy is read only if a machine needs it.
                        await self._sender.send(
                            at, Parcel(carried=one), one.name, {one.name: one.size_bytes}, partial(_kept, one)
                        )
                    except LacksError as error:
                        # Without it nothing can be planned there.
                        raise CannotRunError(str(error)) from error
                    self._ready.add(place)

    async def send(self, at: Reached, artifact: Artifact) -> int:
        """Send what a machine lacks of an artifact and return the bytes that were sent.

        Raises:
            LacksError: the machine refuses it, or gets other bytes than were sent.
            CannotRunError: it gives no answer, or none that makes sense.
        """
        manifest = artifact.manifest
        return await self._sender.send(
            at,
            parcel_of(artifact),
            _named(manifest.checkpoint, manifest.spec),
            {entry.path: entry.size_bytes for entry in manifest.files},
            lambda name: artifact.folder / name,
        )

    async def _have(self, at: Reached, need: Needed) -> None:
        name, checkpoint = at.about.name, await self._checkpoint(need)
        wanted = Wanted(
            checkpoint=checkpoint, spec=need.spec, trust_remote_code=self._request.trust_remote_code
        ).model_dump_json()
        what, reported = f"{name}: {_named(checkpoint, need.spec)}", ""
        while True:
            held = await self._link.call(at.address, Holding, name, op="artifact", wanted=wanted)
            if held.state == "here":
                await self._compare(at, need, checkpoint, held)
                return
            if held.state == "lacks":
                break
            text = (
                "is being exported there"
                if held.state == "makes"
                else f"is waiting for {held.why or 'another run'} to end"
            )
            if text != reported:
                self._say(f"{what}: {text}")
                reported = text
            await asyncio.sleep(send_files.AGAIN_S)
        try:
            artifact = await self._made(checkpoint, need.spec)
        except SlmbenchError as error:
            raise LacksError(f"machine {what}: missing there ({held.why}) and here: {error}") from error
        try:
            await self.send(at, artifact)
        except BadInputError as error:
            raise LacksError(f"machine {what}: {error}") from error

    async def _compare(self, at: Reached, need: Needed, checkpoint: Checkpoint, held: Holding) -> None:
        """Refuse a machine whose artifact differs although the same weights and versions made it."""
        seen = self._seen[need.artifact_id()]
        if not seen:
            own = await asyncio.to_thread(find_artifact, checkpoint, need.spec)
            if own is not None:
                mine = Holding(state="here", files=own.manifest.files, versions=own.manifest.versions)
                seen.append(_Seen("this machine", platform.machine(), mine))
        now = _Seen(at.about.name, at.about.fingerprint.hardware.arch, held)
        for other in seen:
            alike = other.arch == now.arch and made_alike(checkpoint, need.spec, other.held.versions, held.versions)
            file = difference(other.held.files, held.files) if alike else None
            if file is not None:
                what, remedy = _named(checkpoint, need.spec), f"slmbench cache clean {need.artifact_id()[:12]}"
                raise LacksError(
                    f"machine {now.who}: its {what} and that of {other.who} differ in {file}, though the same "
                    f"versions made both; run `{remedy}` on the wrong one"
                )
        seen.append(now)

    async def _made(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> Artifact:
        key = spec.artifact_id(checkpoint.digest)
        async with self._making:
            if key not in self._made_here:
                self._made_here[key] = await asyncio.to_thread(self._exported, checkpoint, spec)
            return self._made_here[key]

    def _exported(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> Artifact:
        found = find_artifact(checkpoint, spec)
        if found is None and (why := cannot_make(checkpoint, spec)) is not None:
            raise CannotRunError(why)
        return found or export_in_child(checkpoint, spec, self._request, self._say)

    async def _checkpoint(self, need: Needed) -> Checkpoint:
        """Return the checkpoint with that digest, with its files if they are on this machine.

        Raises:
            CannotRunError: the request has no such checkpoint.
        """
        if not self._checkpoints:
            self._checkpoints = await asyncio.to_thread(_by_digest, self._request)
        try:
            return self._checkpoints[need.checkpoint_digest]
        except KeyError:
            raise CannotRunError(
                "a machine asks for an artifact of a checkpoint that is not part of this run"
            ) from None


def _by_digest(request: RunRequest) -> dict[str, Checkpoint]:
    """Return the request's checkpoints as they are here, by digest. Those of a resumed run may be gone."""
    known = {one.digest: one for _, one in request.checkpoints}
    try:
        found = resolve_all(requested_suite(request), request.model_copy(update={"checkpoints": ()}))
    except SlmbenchError:
        found = resolve_all(requested_suite(request), request)
    return {**known, **{one.digest: one for one in found.values()}}


def _kept(one: Carried, _: str) -> Path:
    return arrived(one)


def _not_here(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    return None if find_artifact(checkpoint, spec, hashes=False) is not None else cannot_make(checkpoint, spec)


def _named(checkpoint: Checkpoint, spec: ArtifactSpec) -> str:
    return f"{checkpoint.name} {spec.label()}"
