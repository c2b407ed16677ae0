"""A machine that is sent an artifact: pieces that resume, are checked, and may come from several clients."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from artifact_files import SPEC, checkpoint_elsewhere, write_artifact

from slmbench.export.artifact_store import artifacts_dir, find_artifact
from slmbench.fleet import receive_artifact as receive
from slmbench.fleet import transfer_format as parcel
from slmbench.fleet.messages import Holding, Receiving, Wanted
from slmbench.fleet.receive_artifact import Holder
from slmbench.fleet.transfer_format import Content, packed
from slmbench.models.artifact import Artifact, damage, read_artifact
from slmbench.models.checkpoint import resolve

FILES = {"model.xml": b"0123456789abc", "weights/model.bin": bytes(range(45)), "empty": b""}


class Sender:
    """An artifact of one store, sent to a holder whose store is another one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLMBENCH_CACHE", str(folder / "client"))
        monkeypatch.setattr(parcel, "PIECE_BYTES", 10)
        monkeypatch.setattr(receive, "PIECE_BYTES", 10)
        self.artifact: Artifact = write_artifact(checkpoint_elsewhere(folder / "model"), FILES)
        self.content: Content = packed(self.artifact)
        monkeypatch.setenv("SLMBENCH_CACHE", str(folder / "machine"))

    def offer(self, holder: Holder) -> Receiving:
        answer = asyncio.run(holder.offer(self.content.parcel.model_dump_json()))
        return Receiving.model_validate_json(answer["json"])

    def give(self, holder: Holder, wanted: Receiving, data: bytes | None = None) -> Receiving:
        key = (wanted.file, wanted.index)
        data = self.content.read(self.artifact.folder, key) if data is None else data
        answer = asyncio.run(holder.piece(self.content.digest, *key, data))
        return Receiving.model_validate_json(answer["json"])

    def rest(self, holder: Holder, answer: Receiving) -> int:
        """Send until all is there; returns the number of pieces."""
        count = 0
        while answer.state == "wants":
            answer = self.give(holder, answer)
            count += 1
        assert answer.state == "here"
        return count

    @property
    def place(self) -> Path:
        return artifacts_dir() / self.content.manifest.artifact_id


@pytest.fixture
def sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sender:
    return Sender(tmp_path, monkeypatch)


@pytest.fixture
def holder() -> Holder:
    return Holder(lambda: None)


def pieces(sender: Sender) -> int:
    return len(list(sender.content.piece_keys()))


def test_what_was_sent_is_an_artifact_of_the_store(sender: Sender, holder: Holder) -> None:
    assert sender.rest(holder, sender.offer(holder)) == pieces(sender)
    artifact = read_artifact(sender.place)
    assert damage(artifact) is None
    assert artifact.manifest == sender.artifact.manifest
    assert find_artifact(artifact.manifest.checkpoint, SPEC) is not None
    assert [folder.name for folder in artifacts_dir().iterdir()] == [sender.place.name]
    assert sender.offer(holder).state == "here"


def test_after_a_kill_only_what_is_missing_is_wanted(sender: Sender, holder: Holder) -> None:
    answer = sender.offer(holder)
    for _ in range(3):
        answer = sender.give(holder, answer)
    (partial,) = artifacts_dir().iterdir()
    assert sender.content.digest.startswith(partial.name.rsplit("-", 1)[1])
    assert not sender.place.exists()
    # A piece that was half written when the power went, and one that rotted.
    torn = next(path for path in partial.rglob("model.*") if path.stat().st_size >= 10)
    torn.write_bytes(b"?" + torn.read_bytes()[1:])
    after = Holder(lambda: None)
    assert sender.rest(after, sender.offer(after)) == pieces(sender) - 2
    assert damage(read_artifact(sender.place)) is None


def test_a_changed_byte_on_the_way_is_seen_and_the_piece_wanted_again(sender: Sender, holder: Holder) -> None:
    first = sender.offer(holder)
    data = sender.content.read(sender.artifact.folder, (first.file, first.index))
    flipped = bytes([data[0] ^ 1]) + data[1:]
    for wrong in (flipped, data[:-1], data + b"x", b""):
        answer = sender.give(holder, first, wrong)
        assert answer.damaged
        assert answer.missing_bytes == first.missing_bytes
    assert sender.rest(holder, answer) == pieces(sender)


@pytest.mark.parametrize(("file", "index"), [("../../x", 0), ("model.xml", 2), ("model.xml", -1), ("other", 0)])
def test_a_piece_that_the_artifact_does_not_have_is_refused(
    file: str, index: int, sender: Sender, holder: Holder, tmp_path: Path
) -> None:
    sender.offer(holder)
    answer = asyncio.run(holder.piece(sender.content.digest, file, index, b"abc"))
    assert Receiving.model_validate_json(answer["json"]).state == "refused"
    assert not (tmp_path / "x").exists()


def test_two_clients_share_the_work(sender: Sender, holder: Holder) -> None:
    one, two = sender.offer(holder), sender.offer(holder)
    assert (one.file, one.index) != (two.file, two.index)
    count = 0
    while one.state == "wants" or two.state == "wants":
        for answer in (one, two):
            count += answer.state == "wants"
        one = sender.give(holder, one) if one.state == "wants" else one
        two = sender.give(holder, two) if two.state == "wants" else two
    # Who comes last finds it there, or offers it once more and hears that.
    assert sender.offer(holder).state == "here"
    assert count <= pieces(sender) + 1


def test_the_last_pieces_of_a_client_that_left_are_wanted_from_the_other(sender: Sender, holder: Holder) -> None:
    sender.offer(holder)
    sender.offer(holder)
    assert sender.rest(holder, sender.offer(holder)) == pieces(sender)


def test_workers_that_share_a_store_end_right(sender: Sender) -> None:
    one, two = Holder(lambda: None), Holder(lambda: None)
    first, second = sender.offer(one), sender.offer(two)
    second = sender.give(two, second)
    sender.rest(one, first)
    while second.state == "wants":
        second = sender.give(two, second)
    assert second.state == "here" or sender.offer(two).state == "here"
    assert damage(read_artifact(sender.place)) is None


def test_a_partial_folder_that_was_cleaned_away_is_sent_again(sender: Sender, holder: Holder) -> None:
    answer = sender.offer(holder)
    for _ in range(2):
        answer = sender.give(holder, answer)
    (partial,) = artifacts_dir().iterdir()
    shutil.rmtree(partial)
    while answer.state == "wants":
        answer = sender.give(holder, answer)
    assert answer.state == "unknown"
    assert "is missing" in answer.why
    sender.rest(holder, sender.offer(holder))


def test_a_full_disk_is_said_before_anything_is_sent(
    sender: Sender, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(receive.shutil, "disk_usage", lambda path: usage(100, 90, 10))
    answer = sender.offer(holder)
    assert answer.state == "refused"
    assert "MB more" in answer.why
    assert "MB free" in answer.why


def test_a_damaged_artifact_is_replaced(sender: Sender, holder: Holder) -> None:
    sender.rest(holder, sender.offer(holder))
    (sender.place / "weights" / "model.bin").write_bytes(b"short")
    after = Holder(lambda: None)
    sender.rest(after, sender.offer(after))
    assert damage(read_artifact(sender.place)) is None


def test_what_this_machine_would_export_anew_is_refused_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "client"))
    content = packed(write_artifact(resolve("dec-tiny"), FILES))
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "machine"))
    answer = asyncio.run(Holder(lambda: None).offer(content.parcel.model_dump_json()))
    received = Receiving.model_validate_json(answer["json"])
    assert received.state == "refused"
    assert "made by slmbench none, now" in received.why


def test_nothing_is_received_while_a_run_is_measured(sender: Sender) -> None:
    assert sender.offer(Holder(lambda: "a run")).state == "busy"


def test_files_that_do_not_fit_their_hashes_are_thrown_away(sender: Sender, holder: Holder) -> None:
    raw = json.loads(sender.content.parcel.model_dump_json())
    raw["manifest"] = raw["manifest"].replace(sender.content.manifest.files[0].sha256, "0" * 64)
    lying = parcel.parse(json.dumps(raw))
    sender.content = lying
    answer = sender.offer(holder)
    while answer.state == "wants":
        answer = sender.give(holder, answer)
    assert answer.state == "unknown"
    assert "SHA-256" in answer.why
    assert not list(artifacts_dir().iterdir())


def test_what_a_machine_has_of_an_artifact(sender: Sender, holder: Holder) -> None:
    wanted = Wanted(checkpoint=sender.content.manifest.checkpoint, spec=SPEC)

    def asked() -> Holding:
        return Holding.model_validate_json(asyncio.run(holder.artifact(wanted.model_dump_json()))["json"])

    assert asked() == Holding(state="lacks", why="model is not on it")
    sender.rest(holder, sender.offer(holder))
    assert asked().files == sender.artifact.manifest.files


def test_a_machine_without_exporters_says_so(holder: Holder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("slmbench.export.routes.installed_versions", lambda: {"slmbench": "0"})
    wanted = Wanted(checkpoint=resolve("dec-tiny"), spec=SPEC)
    held = Holding.model_validate_json(asyncio.run(holder.artifact(wanted.model_dump_json()))["json"])
    assert held == Holding(state="lacks", why="not installed: torch, transformers, openvino, nncf")
