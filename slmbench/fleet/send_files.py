"""Prompts and tokenizers on their way to a machine: the client sends what is missing, the machine checks the whole."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.fleet.connection import Link, Reached
from slmbench.fleet.leftovers import carried_lock
from slmbench.fleet.messages import Carrying
from slmbench.fleet.transfer_format import PIECE_BYTES
from slmbench.measure.text_prompts import is_json_lines, load_tokenizer, read_prompts
from slmbench.plan.request import RunRequest, requested_suite, resolve_all, tokenizer_folders
from slmbench.plan.sent_files import MAX_CARRIED_BYTES, PART, Carried, arrived, carried_dir, keep
from slmbench.system.locks import locks_dir

#: A file that arrives changed is sent this often.
TRIES = 3
#: Seconds to wait for another worker that writes the same file into the same cache.
LOCK_S = 30.0


def with_files(request: RunRequest) -> RunRequest:
    """Return the request with its prompts, and the tokenizers that read them, among what is carried to machines.

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
    """Return a file of prompts as it is carried.

    Raises:
        BadInputError: it cannot be read, is empty or too large.
    """
    return keep(path, "prompts.jsonl" if is_json_lines(path) else "prompts.txt")


async def bring(link: Link, at: Reached, one: Carried) -> int:
    """Return when a machine has a file, and how many bytes of it were sent.

    Raises:
        BadInputError: it is no longer in this machine's cache.
        CannotRunError: the machine refuses it, gives no answer, or gets other bytes than were sent.
    """
    what = f"machine {at.about.name}: {one.name}"
    text, data, offset, sent, damaged = one.model_dump_json(), b"", 0, 0, 0
    while True:
        answer = await link.call(at.address, Carrying, at.about.name, op="carry", what=text, offset=offset, data=data)
        if answer.state == "here":
            return sent
        if answer.state == "refused":
            raise CannotRunError(f"{what}: is refused: {answer.why}")
        damaged += answer.damaged
        if damaged >= TRIES or sent > TRIES * MAX_CARRIED_BYTES:
            raise CannotRunError(f"{what}: arrives changed each time")
        offset = answer.offset
        data = await asyncio.to_thread(_read, arrived(one), offset)
        sent += len(data)


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(PIECE_BYTES)


def handlers() -> dict[str, Callable[..., Any]]:
    """Return what a machine answers of carried files, by operation."""
    return {"slmbench_carry": carry}


async def carry(what: str, offset: int, data: bytes) -> dict[str, str]:
    """Answer with :class:`Carrying` to a part of a file, which may be empty: a question what of it is here.

    Also while something is measured: planning, which needs the file, is no less work.
    """
    try:
        answer = await asyncio.to_thread(_taken, Carried.model_validate_json(what), offset, data)
    except ValidationError as error:
        answer = Carrying(state="refused", why=one_line(error.errors()[0]["msg"]))
    except Timeout:
        answer = Carrying(state="refused", why="another process writes it")
    except OSError as error:
        answer = Carrying(state="refused", why=one_line(f"{error.filename or carried_dir()}: {error.strerror}"))
    return {"json": answer.model_dump_json()}


def _taken(one: Carried, offset: int, data: bytes) -> Carrying:
    """Append what fits where the file ends now, and put it into its place when it is whole and has its hash."""
    if one.is_here():
        return Carrying(state="here")
    one.place.parent.mkdir(parents=True, exist_ok=True)
    locks_dir().mkdir(parents=True, exist_ok=True)
    part = one.place.with_name(one.name + PART)
    # Workers of one machine share the cache; each goes on where the file ends then.
    with FileLock(carried_lock(one.sha256), timeout=LOCK_S):
        have = part.stat().st_size if part.exists() else 0
        missing = one.size_bytes - have
        if missing > shutil.disk_usage(part.parent).free:
            return Carrying(state="refused", why=f"{carried_dir()} has no room for {missing / 1e6:.1f} MB")
        if offset == have and len(data) <= missing:
            with part.open("ab") as file:
                file.write(data)
            have += len(data)
        if have < one.size_bytes:
            return Carrying(state="wants", offset=have)
        part.replace(one.place)
        if one.is_here():
            return Carrying(state="here")
        one.place.unlink()
        return Carrying(state="wants", damaged=True)
