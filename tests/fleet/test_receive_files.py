"""A machine that is sent an artifact: pieces that resume, are checked, and may come from several clients."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from artifact_files import SPEC, checkpoint_elsewhere, write_artifact

from slmbench.export.artifact_store import artifacts_dir, find_artifact
from slmbench.fleet import receive_files as receive
from slmbench.fleet.messages import Holding, Receiving, Wanted
from slmbench.fleet.receive_files import Holder
from slmbench.fleet.transfer_format import content_digest, parcel_of
from slmbench.models.artifact import Artifact, damage, read_artifact
from slmbench.models.checkpoint import resolve

FILES = {"model.xml": b"0123456789abc", "weights/model.bin": bytes(range(45)), "empty": b""}
#: Bytes that the sender reads at once.
PIECE = 10


class Sender:
    """An artifact of one store, sent to a holder whose store is another one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLMBENCH_CACHE", str(folder / "client"))
        self.artifact: Artifact = write_artifact(checkpoint_elsewhere(folder / "model"), FILES)
        self.parcel = parcel_of(self.artifact).model_dump_json()
        monkeypatch.setenv("SLMBENCH_CACHE", str(folder / "machine"))

    def offer(self, holder: Holder) -> Receiving:
        return Receiving.model_validate_json(asyncio.run(holder.receive(self.parcel))["json"])

    def piece(self, wanted: Receiving) -> bytes:
        with (self.artifact.folder / wanted.file).open("rb") as file:
            file.seek(wanted.offset)
            return file.read(PIECE)

    def give(self, holder: Holder, wanted: Receiving, data: bytes | None = None) -> Receiving:
        sha256 = hashlib.sha256(self.piece(wanted)).hexdigest()
        data = self.piece(wanted) if data is None else data
        answer = asyncio.run(holder.receive(self.parcel, wanted.file, wanted.offset, data, sha256))
        return Receiving.model_validate_json(answer["json"])

    def rest(self, holder: Holder, answer: Receiving) -> int:
        """Send until all is there; returns the number of pieces."""
        count = 0
        while answer.state == "wants":
            answer = self.give(holder, answer)
            count += 1
        assert answer.state == "here", answer
        return count

    @property
    def place(self) -> Path:
        return artifacts_dir() / self.artifact.folder.name


@pytest.fixture
def sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sender:
    return Sender(tmp_path, monkeypatch)


@pytest.fixture
def holder() -> Holder:
    return Holder(lambda: None)


def pieces(sender: Sender) -> int:
    return sum(-(-entry.size_bytes // PIECE) for entry in sender.artifact.manifest.files)


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
    assert content_digest(sender.artifact.manifest.files).startswith(partial.name.rsplit("-", 1)[1])
    assert not sender.place.exists()
    # The last piece was half written when the power went.
    (path,) = (path for path in partial.rglob("*.bin"))
    path.write_bytes(path.read_bytes()[:-4])
    after = Holder(lambda: None)
    wanted = sender.offer(after)
    assert (wanted.file, wanted.offset) == ("weights/model.bin", 6)
    assert sender.rest(after, wanted) == pieces(sender) - 3
    assert damage(read_artifact(sender.place)) is None


def test_a_file_that_rotted_before_the_rest_came_is_sent_again(sender: Sender, holder: Holder) -> None:
    answer = sender.offer(holder)
    for _ in range(4):
        answer = sender.give(holder, answer)
    (path,) = artifacts_dir().rglob("model.xml")
    path.write_bytes(b"?" + path.read_bytes()[1:])
    again = 0
    while answer.state == "wants":
        again += answer.damaged
        answer = sender.give(holder, answer)
    assert (again, answer.state) == (1, "here")
    assert damage(read_artifact(sender.place)) is None


def test_a_changed_byte_on_the_way_is_seen_and_the_piece_wanted_again(sender: Sender, holder: Holder) -> None:
    first = sender.offer(holder)
    data = sender.piece(first)
    for wrong in (bytes([data[0] ^ 1]) + data[1:], data[:-1], data + b"x"):
        answer = sender.give(holder, first, wrong)
        assert answer == first.model_copy(update={"damaged": True})
    assert sender.rest(holder, answer) == pieces(sender)


@pytest.mark.parametrize(("file", "said"), [("../../x", "is not one of its files"), ("other", "is not one of")])
def test_a_file_that_the_artifact_does_not_have_is_refused(
    file: str, said: str, sender: Sender, holder: Holder, tmp_path: Path
) -> None:
    answer = sender.offer(holder).model_copy(update={"file": file})
    sha256 = hashlib.sha256(b"abc").hexdigest()
    refused = asyncio.run(holder.receive(sender.parcel, answer.file, 0, b"abc", sha256))
    found = Receiving.model_validate_json(refused["json"])
    assert (found.state, said in found.why) == ("refused", True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("offset", "data"), [(3, b"abc"), (-1, b"abc"), (0, b"0123456789abcd"), (2**70, b"x")])
def test_bytes_that_do_not_go_where_the_file_ends_are_dropped(
    offset: int, data: bytes, sender: Sender, holder: Holder
) -> None:
    first = sender.offer(holder)
    sha256 = hashlib.sha256(data).hexdigest()
    answer = asyncio.run(holder.receive(sender.parcel, "model.xml", offset, data, sha256))
    assert Receiving.model_validate_json(answer["json"]) == first
    assert sender.rest(holder, first) == pieces(sender)


def test_two_clients_or_workers_of_one_store_end_right(sender: Sender, holder: Holder) -> None:
    other = Holder(lambda: None)
    one, two = sender.offer(holder), sender.offer(other)
    while one.state == "wants" or two.state == "wants":
        one = sender.give(holder, one) if one.state == "wants" else one
        two = sender.give(other, two) if two.state == "wants" else two
    assert (one.state, two.state) == ("here", "here")
    assert damage(read_artifact(sender.place)) is None
    assert [folder.name for folder in artifacts_dir().iterdir()] == [sender.place.name]


def test_a_partial_folder_that_was_cleaned_away_is_sent_again(sender: Sender, holder: Holder) -> None:
    answer = sender.offer(holder)
    for _ in range(2):
        answer = sender.give(holder, answer)
    (partial,) = artifacts_dir().iterdir()
    shutil.rmtree(partial)
    sender.rest(holder, answer)
    assert damage(read_artifact(sender.place)) is None


def test_a_full_disk_is_said_before_anything_is_sent(
    sender: Sender, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(receive.shutil, "disk_usage", lambda path: usage(100, 90, 10))
    answer = sender.offer(holder)
    assert answer.state == "refused"
    assert "MB more and" in answer.why
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
    parcel = parcel_of(write_artifact(resolve("dec-tiny"), FILES))
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path / "machine"))
    answer = asyncio.run(Holder(lambda: None).receive(parcel.model_dump_json()))
    received = Receiving.model_validate_json(answer["json"])
    assert received.state == "refused"
    assert "made by slmbench none, now" in received.why


def test_nothing_is_received_while_a_run_is_measured(sender: Sender) -> None:
    assert sender.offer(Holder(lambda: "a run")).state == "busy"


def test_files_that_do_not_fit_their_hashes_are_thrown_away(sender: Sender, holder: Holder) -> None:
    wrong = sender.artifact.manifest.files[0]
    sender.parcel = sender.parcel.replace(wrong.sha256, "0" * 64)
    answer = sender.offer(holder)
    for _ in range(pieces(sender)):
        answer = sender.give(holder, answer)
    assert (answer.state, answer.damaged, answer.file, answer.offset) == ("wants", True, wrong.path, 0)
    assert not list(artifacts_dir().rglob(wrong.path))
    assert not sender.place.exists()


def test_what_a_machine_has_of_an_artifact(sender: Sender, holder: Holder) -> None:
    wanted = Wanted(checkpoint=sender.artifact.manifest.checkpoint, spec=SPEC)

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
    assert held == Holding(state="lacks", why="not installed: openvino, nncf")
