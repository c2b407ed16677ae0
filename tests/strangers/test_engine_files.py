"""Files of artifacts cut, flipped and made to deceive, opened by real workers with their engines' own parsers.

Where the manifest does not fit its files, no engine sees them. Where it does, for a stranger made the whole artifact,
the case fails with one line that names it, or shows the reference's tokens; what follows it goes on. A flip may kill
an engine's process: the case is "crashed" then, which is what it should be, and the next worker opens the next.
"""

from __future__ import annotations

import json
import os
import random
import time

import psutil
import pytest
from rotation import in_turn
from victims import MakeVictim, Victim, check_line

from slmbench.models.artifact import GOLDEN_NAME, MANIFEST_NAME, read_artifact
from slmbench.running.worker_process import WorkerError

#: Flips of a file in the default run, and in the soak.
FEW, MANY = 24, 80
#: What one opening may take; the good one takes a tenth of the time, and its memory is taken off.
MOST_S, MOST_BYTES = 30.0, 500e6

#: Backend and the files of its artifact that an engine parses.
FILES = [
    ("llama_cpp", "model.gguf"),
    ("onnxruntime", "decoder.onnx"),
    ("onnxruntime", "encoder.onnx.data"),
    ("onnxruntime_genai", "genai_config.json"),
    ("onnxruntime_genai", "model.onnx"),
    ("openvino", "openvino_decoder_model.xml"),
    ("openvino", "openvino_encoder_model.bin"),
    ("openvino_genai", "openvino_model.xml"),
    ("torch", "config.json"),
    ("torch", "model.safetensors"),
]
GRAPHS = [(backend, name) for backend, name in FILES if name.endswith((".onnx", ".xml", ".gguf"))]
_SMALL = 600_000


def broken(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Return the file with something done to it, and what."""
    how = rng.choice(["cut", "a flip", "a flip", "a flip", "flips", "zeros", "a gap", "more"])
    place, length = rng.randrange(len(data)), rng.randrange(1, 400)
    # The beginning is what parsers read; elsewhere a flip of weights is a flip of weights.
    if len(data) > _SMALL and rng.random() < 0.7:
        place = rng.randrange(4096)
    if how == "cut":
        return how, data[:place]
    if how in ("zeros", "a gap", "more"):
        middle = {"zeros": bytes(length), "a gap": b"", "more": data[place : place + length] + rng.randbytes(length)}
        return how, data[:place] + middle[how] + data[place + length :]
    changed = bytearray(data)
    for _ in range(1 if how == "a flip" else max(8, min(len(data), _SMALL) // 2000)):
        changed[place] ^= 1 << rng.randrange(8)
        place = rng.randrange(len(data))
    return how, bytes(changed)


def attack(one: Victim, name: str, count: int) -> None:
    """Open the artifact with its file broken in ``count`` ways."""
    good = one.bytes_of(name)
    assert not isinstance(one.open(one.copy({})), WorkerError)
    assert one.worker
    start = psutil.Process(one.worker.pid).memory_info().rss
    failures = 0
    for number in range(count):
        how, data = broken(good, random.Random(f"{one.backend}/{name}/{number}"))
        folder = one.copy({name: data})
        began = time.monotonic()
        result = one.open(folder)
        assert time.monotonic() - began < MOST_S, (number, how)
        if one.worker.alive:
            assert psutil.Process(one.worker.pid).memory_info().rss - start < MOST_BYTES, (number, how)
        if isinstance(result, WorkerError):
            failures += 1
            check_line(result, folder)
        else:
            # A name, a comment or a weight's last bits: it says what the reference says, so it may be timed.
            assert result.agreement == 1.0, (number, how)
        (folder / name).unlink()
    assert failures > count / 8
    assert not isinstance(one.open(one.copy({})), WorkerError)


@pytest.mark.parametrize(("backend", "name"), FILES)
def test_a_flip_fails_the_case_or_changes_no_token(backend: str, name: str, victim: MakeVictim) -> None:
    attack(victim(backend), name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "name"), in_turn(GRAPHS, 3))
def test_more_flips(backend: str, name: str, victim: MakeVictim) -> None:
    attack(victim(backend), name, int(os.environ.get("SLMBENCH_FLIPS", MANY)))


@pytest.mark.parametrize(("backend", "name"), FILES)
def test_no_engine_sees_a_file_that_its_manifest_does_not_know(backend: str, name: str, victim: MakeVictim) -> None:
    one = victim(backend)
    data = bytearray(one.bytes_of(name))
    data[len(data) // 2] ^= 1
    folder = one.copy({name: bytes(data)}, rehash=False)
    if one.worker is not None:
        one.worker.kill()
    assert f"{folder / name} was changed after it was written (SHA-256 differs)" in one.refused(folder)
    if hasattr(psutil.Process, "memory_maps"):
        assert one.worker
        engine = backend if backend in ("torch", "llama_cpp") else backend.partition("_")[0]
        loaded = [m.path for m in psutil.Process(one.worker.pid).memory_maps() if f"/{engine}/" in m.path]
        assert not loaded
    (folder / name).write_bytes(bytes(data[: len(data) // 2]))
    assert f"{folder / name} has {len(data) // 2} bytes" in one.refused(folder)
    (folder / name).unlink()
    assert f"{folder / name} is missing" in one.refused(folder)


def test_a_file_changed_between_the_check_and_a_load_is_seen(victim: MakeVictim) -> None:
    one = victim("onnxruntime")
    name = "decoder.onnx"
    folder = one.copy({name: one.bytes_of(name)})
    stamp = read_artifact(folder).stamp
    assert not isinstance(one.open(folder, stamp), WorkerError)
    # Touched, but the same.
    os.utime(folder / name, ns=(1, 1))
    assert not isinstance(one.open(folder, stamp), WorkerError)
    data = bytearray(one.bytes_of(name))
    data[-1] ^= 1
    (folder / name).write_bytes(bytes(data))
    assert f"{folder / name} was changed after it was written" in one.refused(folder, stamp)
    # Exported again: whole, and another artifact than the one that was measured so far.
    (folder / name).write_bytes(one.bytes_of(name))
    manifest = read_artifact(folder).manifest.model_copy(update={"created": "later"})
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json())
    assert "was replaced after this run began to measure it" in one.refused(folder, stamp)


def test_a_file_that_is_in_no_list_is_not_lain_beside(victim: MakeVictim) -> None:
    """Engines open what they know by its name, listed or not."""
    one = victim("onnxruntime")
    folder = one.copy({})
    (folder / ".DS_Store").write_bytes(b"what a file manager leaves is read by no engine")
    assert not isinstance(one.open(folder), WorkerError)
    (folder / "genai_config.json").write_bytes(b"{}")
    assert f"{folder / 'genai_config.json'} is in the artifact's folder" in one.refused(folder)


def test_without_a_golden_record_nothing_is_timed(victim: MakeVictim) -> None:
    """A stranger who leaves the proof out gets no number; nor does one whose proof is broken."""
    one = victim("onnxruntime")
    empty = one.copy({GOLDEN_NAME: b'{"prompts": [], "versions": {}}'})
    result = one.open(empty)
    assert isinstance(result, WorkerError)
    assert "nothing is proven" in result.message
    for data in (b"", b"[" * 100_000, one.bytes_of(GOLDEN_NAME)[:-9], b'{"prompts": 7}'):
        folder = one.copy({GOLDEN_NAME: data})
        assert f"{folder / GOLDEN_NAME}: not a golden record" in one.refused(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"input_ids": [5, 2**40]}, f"token {2**40} of a vocabulary of"), ({"input_ids": [5, -1]}, "input_ids"),
        ({"input_ids": []}, "input_ids"), ({"input_ids": [5] * 100_000}, "input_ids"),
        ({"tokens": [5, 2**40], "margins": [1.0, 1.0]}, f"token {2**40} of"), ({"tokens": [], "margins": []}, "tokens"),
        ({"margins": [1.0]}, "1 margins of 24 tokens"),
    ],
)  # fmt: skip
def test_a_golden_record_that_lies_is_refused(change: dict[str, list[float]], told: str, victim: MakeVictim) -> None:
    """No margin would be no proof, a long prompt hours of it, an id beyond the vocabulary somebody else's memory."""
    one = victim("onnxruntime")
    record = json.loads(one.bytes_of(GOLDEN_NAME))
    record["prompts"][0].update(change)
    line = one.refused(one.copy({GOLDEN_NAME: json.dumps(record).encode()}))
    assert f"{GOLDEN_NAME}: not a golden record: " in line
    assert told in line
