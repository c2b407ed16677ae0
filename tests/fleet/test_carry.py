"""Prompts and tokenizers on their way to real workers that have caches of their own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from folders import make_folder
from test_artifacts import shelf

from slmbench.errors import BadInputError, CannotRunError
from slmbench.fleet import send_files as carry
from slmbench.fleet.messages import Carrying
from slmbench.fleet.send_files import bring, with_files
from slmbench.plan import sent_files as carried
from slmbench.plan.request import RunRequest, plan_request
from slmbench.plan.sent_files import PART, Carried, arrived, carried_dir, keep


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "client"))
    monkeypatch.setattr(carry, "PIECE_BYTES", 4)
    return tmp_path


def prompts(folder: Path, text: str = "one\ntwo\nthree\n") -> Carried:
    path = folder / "questions.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return keep(path, "prompts.txt")


def answer(one: Carried, offset: int = 0, data: bytes = b"") -> Carrying:
    return Carrying.model_validate_json(asyncio.run(carry.carry(one.model_dump_json(), offset, data))["json"])


class Spoiled:
    """A link that changes the first bytes that travel so many times."""

    def __init__(self, link: Any, times: int) -> None:
        self.link, self.times = link, times

    async def call(self, address: str, kind: Any, machine: str, *, op: str, **fields: Any) -> Any:
        if fields["data"] and not fields["offset"] and self.times:
            self.times -= 1
            fields["data"] = b"x" * len(fields["data"])
        return await self.link.call(address, kind, machine, op=op, **fields)


def test_a_file_is_sent_once_goes_on_where_it_broke_off_and_is_checked_whole(cache: Path) -> None:
    one = prompts(cache)
    half = cache / "two" / "carried" / one.sha256 / f"prompts.txt{PART}"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"one\ntw")

    async def run() -> None:
        async with shelf(cache, "one", "two", "three", "four") as (link, _):
            machines = {at.about.name: at for at in await link.machines()}
            assert await bring(link, machines["one"], one) == 14
            assert await bring(link, machines["one"], one) == 0
            assert await bring(link, machines["two"], one) == 8
            assert await bring(Spoiled(link, 1), machines["three"], one) == 28  # type: ignore[arg-type]
            with pytest.raises(CannotRunError, match=r"machine four: prompts\.txt: arrives changed each time"):
                await bring(Spoiled(link, 3), machines["four"], one)  # type: ignore[arg-type]

    asyncio.run(run())
    for name in ("one", "two", "three"):
        place = cache / name / "carried" / one.sha256 / "prompts.txt"
        assert place.read_bytes() == b"one\ntwo\nthree\n"
        assert list(place.parent.iterdir()) == [place]
    assert not list((cache / "four" / "carried").rglob("prompts.txt"))


def test_a_machine_takes_no_more_than_was_announced_and_no_name_of_the_senders(cache: Path) -> None:
    one = prompts(cache)
    one.place.unlink()
    assert answer(one, 0, b"x" * 15) == Carrying(state="wants")
    assert answer(one, 3, b"one") == Carrying(state="wants")
    assert answer(one, 0, b"one") == Carrying(state="wants", offset=3)
    text = json.dumps(one.model_dump() | {"name": "../../x"})
    assert Carrying.model_validate_json(asyncio.run(carry.carry(text, 0, b""))["json"]).state == "refused"
    huge = json.dumps(one.model_dump() | {"size_bytes": carried.MAX_CARRIED_BYTES + 1})
    assert Carrying.model_validate_json(asyncio.run(carry.carry(huge, 0, b""))["json"]).state == "refused"


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
