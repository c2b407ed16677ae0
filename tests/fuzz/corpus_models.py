"""Broken checkpoints: configs, safetensors, indexes, tokenizers, prompts."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from corpus import DEEP, Broken, broken_bytes, text
from folders import CONFIG, make_folder


def checkpoint_files(config: Any = None, weights: bytes | None = None, **more: bytes) -> dict[str, bytes]:
    raw = config if isinstance(config, bytes) else text(CONFIG if config is None else config)
    return {"m/config.json": raw, "m/model.safetensors": good_weights() if weights is None else weights, **more}


@cache
def good_weights() -> bytes:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        return (make_folder(Path(folder)) / "model.safetensors").read_bytes()


EXPLAIN = ("explain", "{}/m", "--input-tokens", "8", "--output-tokens", "2")


def configs() -> Iterator[Broken]:
    """Yield broken config.json files of a checkpoint."""
    for name, raw in broken_bytes(text(CONFIG)).items():
        yield Broken(f"config.json {name}", EXPLAIN, checkpoint_files(raw), "config.json")
    sizes = [key for key, value in CONFIG.items() if type(value) is int and key != "pad_token_id"]
    for key in sizes:
        for value in (0, -1, 2**40, 10**400, 1.5, "8", [8], {}, True, float("nan")):
            files = checkpoint_files({**CONFIG, key: value})
            yield Broken(f"config.json {key}: {str(value)[:8]}", EXPLAIN, files, "config.json")
    for kind in ("bert", "lama", "", None, 7, ["llama"], "\x1b[31m", "t5", "t5gemma"):
        files = checkpoint_files({**CONFIG, "model_type": kind})
        yield Broken(f"config.json of {kind!r}", EXPLAIN, files, "config.json")
    for key in ("eos_token_id", "pad_token_id", "tie_word_embeddings", "decoder_start_token_id", "head_dim"):
        for value in (-1, 10**400, "x", [[]], {}, float("nan")):
            files = checkpoint_files({**CONFIG, key: value})
            yield Broken(f"config.json {key}: {str(value)[:8]}", EXPLAIN, files, "config.json", may_pass=True)
    for name, raw in broken_bytes(b'{"a": 1}').items():
        files = checkpoint_files(None, None, **{"m/generation_config.json": raw})
        yield Broken(f"generation_config.json {name}", EXPLAIN, files, "generation_config.json",
                     may_pass=name == "a huge number")  # fmt: skip


def header(tensors: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = tensors if isinstance(tensors, bytes) else text(tensors)
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def weights() -> Iterator[Broken]:
    """Yield safetensors files with lying headers, pickles, and indexes that lead elsewhere."""
    good = good_weights()
    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    wrong = {
        "empty": b"", "8 bytes": good[:8], "header alone": good[:100], "cut": good[:-1], "longer": good + b"x" * 64,
        "header of 2^63": header(b"{}", length=2**63), "header of all": header(b"{}", length=2**64 - 1),
        "no header": header(b"", length=0), "a list": header([1]), "a word": header("x"), "deep": header(b"[" * 90_000),
        "no tensors": header({}), "not JSON": header(b"{nope"), "not UTF-8": header(b'{"\xff": 1}'),
        "a tensor of null": header({"a": None}), "a tensor of a list": header({"a": [1, 2, 3]}),
        **{f"{name} {value!r}"[:40]: header({"a": {**one, name: value}}, bytes(16))
           for name, values in {
               "dtype": ("F99", 7, None, [], "F32\x1b"),
               "shape": ([-4], [2**62, 2**62], [4.0], "4", None, [[4]], [5], [True] * 4),
               "data_offsets": ([0, 2**70], [16, 0], [0], [0, 16, 32], [-16, 0], None, ["0", "16"], [0, 8], {}),
           }.items() for value in values},
        **{f"without {name}": header({"a": {k: v for k, v in one.items() if k != name}}, bytes(16)) for name in one},
        "a huge rank": header({"a": {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]}}, bytes(4)),
        "a huge product": header({"a": {"dtype": "F32", "shape": [2**60] * 20_000, "data_offsets": [0, 4]}}, bytes(4)),
    }  # fmt: skip
    ok = {"longer", "a huge rank"}
    for name, raw in wrong.items():
        files = checkpoint_files(None, raw)
        yield Broken(f"safetensors {name}", EXPLAIN, files, "safetensors", may_pass=name in ok)
    index = "m/model.safetensors.index.json"
    for name, raw in {
        **broken_bytes(text({"weight_map": {"a": "model.safetensors"}})),
        "a path up": text({"weight_map": {"a": "../model.safetensors"}}),
        "an absolute path": text({"weight_map": {"a": "/etc/passwd"}}),
        "a missing file": text({"weight_map": {"a": "nowhere.safetensors"}}),
        "numbers": text({"weight_map": {"a": 7}}), "a list": text({"weight_map": ["a"]}),
        "none": text({"weight_map": {}}),
        "control characters": text({"weight_map": {"a": "\x1b[31m"}}), "a NUL": text({"weight_map": {"a": "\0"}}),
    }.items():  # fmt: skip
        yield Broken(f"index {name}", EXPLAIN, checkpoint_files(None, None, **{index: raw}), "index.json")
    for suffix in ("bin", "pt", "pth", "ckpt"):
        files = {"m/config.json": text(CONFIG), f"m/pytorch_model.{suffix}": b"\x80\x04cos\nsystem\n"}
        yield Broken(f"a pickle, .{suffix}", EXPLAIN, files, "only pickled weights")
    yield Broken("no weights", EXPLAIN, {"m/config.json": text(CONFIG)}, "no weights")
    yield Broken("no config", EXPLAIN, {"m/model.safetensors": good}, "config.json")


def tokenizers() -> Iterator[Broken]:
    """Yield prompts and tokenizers that cannot be read."""
    command = ("run", "--model", "{}/m", "--prompts", "{}/p.txt", "--backend", "onnxruntime", "--dry-run")
    yield Broken("no tokenizer", command, {**checkpoint_files(), "p.txt": b"hello\n"}, "no tokenizer.json")
    for name, raw in {**broken_bytes(b'{"version": "1.0"}'), "nothing": b"{}"}.items():
        files = {**checkpoint_files(), "p.txt": b"hello\n", "m/tokenizer.json": raw}
        yield Broken(f"tokenizer.json {name}", command, files, "tokenizer.json")
    for name, raw in {"empty": b"", "blank": b"\n \n", "binary": bytes(range(256)), "long": b"x\n" * 10_001}.items():
        yield Broken(f"prompts {name}", command, {**checkpoint_files(), "p.txt": raw}, "p.txt")
    lines = (*command[:4], "{}/p.jsonl", *command[5:])
    for name, raw in {"not JSON": b"{", "a number": b"7\n", "other keys": b'{"x": "y"}\n', "deep": DEEP.encode(),
                      "empty text": b'{"prompt": ""}\n', "null": b"null\n"}.items():  # fmt: skip
        yield Broken(f"prompts.jsonl {name}", lines, {**checkpoint_files(), "p.jsonl": raw}, "p.jsonl:1")
