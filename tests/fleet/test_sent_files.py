"""Prompts and tokenizers on their way to real workers that have caches of their own."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from folders import make_folder
from test_artifacts import shelf

from slmbench.errors import BadInputError, CannotRunError
from slmbench.fleet import send_files
from slmbench.fleet.messages import Receiving
from slmbench.fleet.receive_files import Holder
from slmbench.fleet.send_artifact import Supply
from slmbench.fleet.send_files import with_files
from slmbench.plan import sent_files as carried
from slmbench.plan.request import RunRequest, plan_request
from slmbench.plan.sent_files import PART, Carried, arrived, carried_dir, keep


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "client"))
    monkeypatch.setattr(send_files, "PIECE_BYTES", 4)
    return tmp_path


def prompts(folder: Path, text: str = "one\ntwo\nthree\n") -> Carried:
    path = folder / "questions.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return keep(path, "prompts.txt")


def answer(carried: object, offset: int = 0, data: bytes = b"") -> Receiving:
    text, sha256 = json.dumps({"carried": carried}), hashlib.sha256(data).hexdigest()
    # A run that is measured does not hold it up.
    holder = Holder(lambda: "a run")
    return Receiving.model_validate_json(asyncio.run(holder.receive(text, "prompts.txt", offset, data, sha256))["json"])


class Spoiled:
    """A link that changes the first bytes that travel so many times, and counts all."""

    def __init__(self, link: Any, times: int = 0) -> None:
        self.link, self.times, self.sent = link, times, 0

    async def call(self, address: str, kind: Any, machine: str, *, op: str, **fields: Any) -> Any:
        self.sent += len(fields.get("data", b""))
        if fields.get("data") and not fields["offset"] and self.times:
            self.times -= 1
            fields["data"] = b"x" * len(fields["data"])
        return await self.link.call(address, kind, machine, op=op, **fields)


def test_a_file_is_sent_once_goes_on_where_it_broke_off_and_is_checked_whole(cache: Path) -> None:
    one = prompts(cache)
    for name, data in (("two", b"one\ntw"), ("three", b"ONE\ntw")):
        half = cache / name / "carried" / one.sha256 / f"prompts.txt{PART}"
        half.parent.mkdir(parents=True)
        half.write_bytes(data)

    async def run() -> None:
        async with shelf(cache, "one", "two", "three", "four", "five") as (link, _):
            machines = {at.about.name: at for at in await link.machines()}

            async def sent(name: str, times: int = 0) -> int:
                wire = Spoiled(link, times)
                supply = Supply(wire, RunRequest(carried=(one,)), lambda _: None)  # type: ignore[arg-type]
                await supply.files(machines[name])
                return wire.sent

            assert await sent("one") == 14
            assert await sent("one") == 0
            assert await sent("two") == 8
            # What is found wrong in the end is sent again as a whole.
            assert await sent("three") == 8 + 14
            assert await sent("four", 1) == 4 + 14
            with pytest.raises(CannotRunError, match=r"machine five: prompts\.txt: .* is damaged on the way each time"):
                await sent("five", 3)

    asyncio.run(run())
    for name in ("one", "two", "three", "four"):
        place = cache / name / "carried" / one.sha256 / "prompts.txt"
        assert place.read_bytes() == b"one\ntwo\nthree\n"
        assert list(place.parent.iterdir()) == [place]
    assert not list((cache / "five" / "carried").rglob("prompts.txt"))


def test_a_machine_takes_no_more_than_was_announced_and_no_name_of_the_senders(cache: Path) -> None:
    one = prompts(cache)
    one.place.unlink()
    known = json.loads(one.model_dump_json())
    first = Receiving(state="wants", file="prompts.txt", missing_bytes=14)
    assert answer(known, 0, b"x" * 15) == first
    assert answer(known, 3, b"one") == first
    assert answer(known, 0, b"one") == first.model_copy(update={"offset": 3, "missing_bytes": 11})
    assert answer(known | {"name": "../../x"}).state == "refused"
    assert answer(known | {"size_bytes": carried.MAX_CARRIED_BYTES + 1}).state == "refused"


def test_what_was_changed_or_removed_is_not_used(cache: Path) -> None:
    one = prompts(cache)
    assert arrived(one).read_text(encoding="utf-8") == "one\ntwo\nthree\n"
    one.place.write_text("another", encoding="utf-8")
    request = RunRequest(models=("dec-tiny",), prompts=Path("questions.txt"), carried=(one,))
    with pytest.raises(BadInputError, match=r"prompts\.txt [0-9a-f]{12} is not in .*carried, or was changed"):
        plan_request(request)


def test_what_cannot_travel_is_refused_here(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache / "questions.txt"
    with pytest.raises(BadInputError, match=r"questions\.txt: No such file"):
        with_files(RunRequest(models=("dec-tiny",), prompts=path))
    path.write_text("one\n", encoding="utf-8")
    with pytest.raises(BadInputError, match="a catalog model has no tokenizer"):
        with_files(RunRequest(models=("dec-tiny",), prompts=path))
    with pytest.raises(BadInputError, match=r"no tokenizer\.json"):
        with_files(RunRequest(models=(str(make_folder(cache / "mine")),), prompts=path))
    monkeypatch.setattr(carried, "MAX_CARRIED_BYTES", 3)
    with pytest.raises(BadInputError, match="has 4 bytes; from 1 to 3 can be sent to a fleet"):
        with_files(RunRequest(models=("dec-tiny",), prompts=path))
    assert not list(carried_dir().rglob(f"*{PART}"))
