"""The client's side of transfers: how anything is sent to a machine, and which files travel with a request."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from slmbench.errors import BadInputError, CannotRunError
from slmbench.fleet.connection import Link, Reached
from slmbench.fleet.messages import Receiving
from slmbench.fleet.transfer_format import PIECE_BYTES, Parcel
from slmbench.measure.text_prompts import is_json_lines, load_tokenizer, read_prompts
from slmbench.plan.asked_prompts import tokenizer_folders
from slmbench.plan.request import RunRequest, requested_suite, resolve_all
from slmbench.plan.sent_files import Carried, keep

Say = Callable[[str], None]
#: A piece that arrives damaged is sent this often, and the whole as well.
TRIES = 3
#: Seconds until a machine that is busy, or exports, is asked again.
AGAIN_S = 2.0
#: From this size on a transfer reports its progress, each quarter.
REPORT_BYTES = 64 * 2**20


class LacksError(CannotRunError):
    """A machine answers, and cannot have an artifact or file. ``keys``: the cases that need it."""

    def __init__(self, message: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.keys = keys


class Sender:
    """Sends to all machines of a run, a few pieces at a time: the scheduler holds each for a moment."""

    def __init__(self, link: Link, say: Say, pieces_at_once: int = 4) -> None:
        self._link, self._say = link, say
        self._on_the_way = asyncio.Semaphore(pieces_at_once)

    async def send(
        self, at: Reached, parcel: Parcel, label: str, sizes: Mapping[str, int], place: Callable[[str], Path]
    ) -> int:
        """Send what a machine lacks of a parcel and return the bytes that were sent.

        ``sizes`` are those of its files, in bytes; ``place`` returns where one of them is here.

        Raises:
            BadInputError: a file is no longer here as it was.
            LacksError: the machine refuses it, or gets other bytes than were sent.
            CannotRunError: it gives no answer, or none that makes sense.
        """
        what, whole = f"{at.about.name}: {label}", sum(sizes.values())
        text, piece = parcel.model_dump_json(), dict[str, str | int | bytes]()
        sent = damaged = reported = 0
        while True:
            async with self._on_the_way if piece else nullcontext():
                answer = await self._link.call(at.address, Receiving, at.about.name, op="receive", parcel=text, **piece)
            piece = {}
            if answer.state == "here":
                if sent:
                    self._say(f"{what}: is there, {sent / 1e6:.1f} MB sent")
                return sent
            if answer.state == "refused":
                raise LacksError(f"machine {what}: is refused: {answer.why}")
            if answer.state == "busy":
                await asyncio.sleep(AGAIN_S)
                continue
            size = sizes.get(answer.file, 0)
            if answer.offset >= size or sent > TRIES * (whole + PIECE_BYTES):
                raise CannotRunError(f"machine {what}: asks for more than there is")
            damaged = damaged + 1 if answer.damaged else 0
            if damaged:
                self._say(f"{what}: {answer.file} was damaged on the way; sent again from byte {answer.offset:,}")
            if damaged >= TRIES:
                raise LacksError(f"machine {what}: {answer.file} is damaged on the way each time")
            quarter = 4 * (whole - answer.missing_bytes) // whole
            if whole >= REPORT_BYTES and quarter > reported:
                self._say(f"{what}: {25 * quarter} % of {whole / 1e6:.1f} MB")
                reported = quarter
            data = await asyncio.to_thread(_read, place(answer.file), answer.offset)
            if len(data) != min(PIECE_BYTES, size - answer.offset):
                raise BadInputError(f"{place(answer.file)}: was changed while it was sent")
            sent += len(data)
            hashed = hashlib.sha256(data).hexdigest()
            piece = {"file": answer.file, "offset": answer.offset, "data": data, "sha256": hashed}


def with_files(request: RunRequest) -> RunRequest:
    """Return the request with its prompts, and the tokenizers that read them, among what is sent to machines.

    Raises:
        BadInputError: the prompts or a tokenizer cannot be read or are too large, or a checkpoint has no tokenizer.
    """
    if request.prompts is None:
        return request
    read_prompts(request.prompts)
    files = [kept_prompts(request.prompts)]
    for checkpoint, folder in tokenizer_folders(request, resolve_all(requested_suite(request), request)).items():
        load_tokenizer(folder)
        files.append(keep(folder / "tokenizer.json", "tokenizer.json", checkpoint.digest))
    files = list(dict.fromkeys(files))
    if len({one.checkpoint for one in files}) < len(files):
        raise BadInputError("two of the models have the same weights and different tokenizers; a fleet takes one a run")
    return request.model_copy(update={"carried": tuple(files)})


def kept_prompts(path: Path) -> Carried:
    """Return a file of prompts as it is sent.

    Raises:
        BadInputError: it cannot be read, is empty or too large.
    """
    return keep(path, "prompts.jsonl" if is_json_lines(path) else "prompts.txt")


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
