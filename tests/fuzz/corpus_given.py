"""Broken artifacts as people bring them: GGUF, OpenVINO IR, onnxruntime-genai, Hugging Face ONNX."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import given_files as good
from corpus import ODD, Broken, broken_bytes, json_mutations, text

INSPECT = ("inspect", "{}/m")
ONE = ("inspect", "{}/m/model.gguf")


def ggufs() -> Iterator[Broken]:
    """Yield GGUF files that are cut, lie about what they hold, or are no models."""
    whole = good.gguf_bytes()
    yield Broken("GGUF: a good one", ONE, {"m/model.gguf": whole}, may_pass=True)
    for size in (0, 3, 4, 8, 20, 24, 40, 100, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        yield Broken(f"GGUF cut at {size}", ONE, {"m/model.gguf": whole[:size]}, "model.gguf")
    for name, raw in broken_bytes(whole).items():
        if name != "twice":
            yield Broken(f"GGUF {name}", ONE, {"m/model.gguf": raw}, "model.gguf", may_pass=name == "not UTF-8")
    bad = {
        "another magic": good.gguf_bytes(magic=b"GGML"),
        "version 1": good.gguf_bytes(version=1),
        "version 9": good.gguf_bytes(version=9),
        "big-endian": good.gguf_bytes(version=0x03000000),
        "2**63 tensors": good.gguf_bytes(counts=(1 << 63, 3)),
        "2**40 values": good.gguf_bytes(counts=(3, 1 << 40)),
        "one tensor too many": good.gguf_bytes(counts=(len(good.TENSORS) + 1, len(good.VALUES))),
        "one value too many": good.gguf_bytes(counts=(len(good.TENSORS), len(good.VALUES) + 1)),
        "no values": good.gguf_bytes({}),
        "no tensors": good.gguf_bytes(tensors={}),
    }
    for kind in ("bert", "t5encoder", "clip", "", "\x1b[31m", "mamba\u202e"):
        bad[f"of {kind!r}"] = good.gguf_bytes({**good.VALUES, "general.architecture": kind})
    for kind in ("adapter", "mmproj", "vocab"):
        bad[f"a {kind}"] = good.gguf_bytes({**good.VALUES, "general.type": kind})
    for key, value in good.VALUES.items():
        if type(value) is int and key not in ("general.file_type", "tokenizer.ggml.eos_token_id"):
            bad[f"{key} taken out"] = good.gguf_bytes({k: v for k, v in good.VALUES.items() if k != key})
            for wrong in (0, (1 << 32) - 1, "8", 8.5):
                bad[f"{key}: {wrong}"] = good.gguf_bytes({**good.VALUES, key: wrong})
    for alignment in (0, 7, 1 << 30, "32"):
        bad[f"alignment {alignment}"] = good.gguf_bytes({**good.VALUES, "general.alignment": alignment})
    for shape in ((0, 4), (1 << 62, 1 << 62), (64, 96, 2, 2, 2), (33,)):
        bad[f"a tensor of {shape}"] = good.gguf_bytes(tensors={**good.TENSORS, "blk.0.ffn_gate.weight": (shape, 8)})
    for kind in (4, 5, 31, 99, (1 << 32) - 1):
        bad[f"ggml's type {kind}"] = good.gguf_bytes(tensors={**good.TENSORS, "blk.0.ffn_gate.weight": ((64,), kind)})
    # What may be left out, or has a default.
    free = ("head_count_kv", "context_length", "epsilon", "feed_forward")
    for name, raw in bad.items():
        may = any(one in name for one in free)
        yield Broken(f"GGUF: {name}", ONE, {"m/model.gguf": raw}, "model.gguf", may_pass=may)
    endless = struct.pack("<Q", 1 << 62)
    for place in (24, 32, 60, 120):
        raw = whole[:place] + endless + whole[place + 8 :]
        yield Broken(f"GGUF: a length of 2**62 at {place}", ONE, {"m/model.gguf": raw}, may_pass=True)
    yield from _parts(whole)


def _parts(whole: bytes) -> Iterator[Broken]:
    first, second = "m/x-00001-of-00002.gguf", "m/x-00002-of-00002.gguf"
    path = ("inspect", "{}/" + first)
    yield Broken("GGUF: a part is missing", path, {first: whole}, "x-00002-of-00002.gguf")
    yield Broken("GGUF: parts of two files", path, {first: whole, second: whole}, first[2:])
    split = {**good.VALUES, "split.no": 0, "split.count": 3, "split.tensors.count": 3}
    yield Broken("GGUF: a part alone", ONE, {"m/model.gguf": good.gguf_bytes(split)}, "3 parts")
    files = {"m/a-Q4_0.gguf": whole, "m/a-Q8_0.gguf": whole}
    yield Broken("GGUF: two in a folder", INSPECT, files, "Q4_0")
    yield Broken("GGUF: another is named", ("inspect", "{}/m:Q5_0"), files, "Q8_0")


def irs() -> Iterator[Broken]:
    """Yield OpenVINO IRs with entities, extensions, cut weights, unknown inputs."""
    xml = good.ir_xml()
    yield Broken("IR: a good one", INSPECT, _in_m(good.ir_files()), may_pass=True)
    for name, raw in broken_bytes(xml.encode()).items():
        yield Broken(f"IR {name}", INSPECT, _in_m(good.ir_files(raw.decode("latin-1"))), "openvino_model.xml")
    laughs = "".join(f'<!ENTITY l{n + 1} "&l{n};&l{n};&l{n};&l{n};&l{n};&l{n};&l{n};&l{n};">' for n in range(12))
    bad = {
        "a billion laughs": good.ir_xml(before=f'<!DOCTYPE net [<!ENTITY l0 "ha">{laughs}]>'),
        "an external entity": good.ir_xml(before='<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
        "an extension": good.ir_xml(extra='<layer id="9" name="x" type="StringTensorUnpack" version="extension"/>'),
        "an operator of somebody's": good.ir_xml(extra='<layer id="9" name="x" type="Evil" version="mine"/>'),
        "a layer without a type": good.ir_xml(extra='<layer id="9" name="x" version="opset1"/>'),
        "an unknown input": good.ir_xml(
            inputs='<layer id="8" name="pixels" type="Parameter" version="opset1"><data shape="?" element_type="f32"/>'
            '<output><port id="0" names="pixel_values"/></output></layer>'
        ),
        "nested deep": "<net>" + "<a>" * 100_000,
        "weights beyond the file": good.ir_xml(weight='element_type="f32" shape="96, 64" offset="8" size="24576"'),
        "a negative offset": good.ir_xml(weight='element_type="f32" shape="96, 64" offset="-8" size="24576"'),
        "a shape larger than its bytes": good.ir_xml(weight='element_type="f32" shape="96, 99999" offset="0" size="8"'),
        "a shape that is none": good.ir_xml(weight='element_type="f32" shape="a, b" offset="0" size="8"'),
        "no states": good.ir_xml().replace("ReadValue", "Relu"),
        "another vocabulary": xml.replace(f"{good.VOCABULARY}</dim></port></input>", "7</dim></port></input>"),
    }  # fmt: skip
    for name, text_ in bad.items():
        yield Broken(f"IR: {name}", INSPECT, _in_m(good.ir_files(text_)), "m")
    files = good.ir_files()
    for left_out in files:
        yield Broken(f"IR without {left_out}", INSPECT, _in_m({k: v for k, v in files.items() if k != left_out}), "m")
    yield Broken("IR with empty weights", INSPECT, _in_m(good.ir_files(**{"openvino_model.bin": b""})), ".bin")
    words = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 5000}}}
    for name, tokenizer in {"of another vocabulary": words, "without a model": {"a": 1}, "that is a list": []}.items():
        more = {"tokenizer.json": text(tokenizer)}
        yield Broken(f"IR with a tokenizer {name}", INSPECT, _in_m(good.ir_files(**more)), "tokenizer.json")


def onnx_folders() -> Iterator[Broken]:
    """Yield folders of ONNX graphs: external data elsewhere, libraries, unknown inputs, configs that do not fit."""
    yield Broken("genai: a good one", INSPECT, _in_m(good.genai_files()), may_pass=True)
    yield Broken("HF ONNX: a good one", INSPECT, _in_m(good.hf_files()), may_pass=True)
    whole = good.onnx_bytes()
    broken = {name: raw for name, raw in broken_bytes(whole).items() if name not in ("twice", "not UTF-8")}
    broken |= {f"cut at {size}": whole[:size] for size in (1, 15, 16, 17, 60, len(whole) // 2, len(whole) - 1)}
    places = (
        "/etc/passwd",
        "../secret.bin",
        "C:\\weights.bin",
        "a/../../b",
        "",
        "nothing.bin",
        "\x1b[31m",
        "\\\\host\\x",
    )
    broken |= {f"external data at {place!r}": good.onnx_bytes(location=place) for place in places}
    broken |= {
        "a weight shorter than its shape": good.onnx_bytes(raw=100),
        "an operator of somebody's": good.onnx_bytes(domain="com.evil"),
    }
    for name, raw in broken.items():
        yield Broken(f"genai: ONNX {name}", INSPECT, _in_m(good.genai_files(onnx=raw)), "model.onnx")
        yield Broken(f"HF ONNX: {name}", INSPECT, _in_m(good.hf_files(onnx=raw)), "model_q4f16.onnx")
    short = good.hf_files(onnx=good.onnx_bytes(location="w.bin"), **{"onnx/w.bin": bytes(8)})
    yield Broken("HF ONNX: external data that is cut", INSPECT, _in_m(short), "w.bin")
    pictures = good.hf_files(onnx=good.onnx_bytes(extra_input="pixel_values"))
    yield Broken("HF ONNX: an unknown input", INSPECT, _in_m(pictures), "pixel_values")
    yield Broken("HF ONNX: no decoder with K/V", INSPECT, _in_m(good.hf_files(name="onnx/decoder_model.onnx")), "m")
    two = good.hf_files(**{"onnx/model_fp16.onnx": whole})
    yield Broken("HF ONNX: two variants", INSPECT, _in_m(two), "fp16")
    yield from _genai_configs()


def _genai_configs() -> Iterator[Broken]:
    def changed(**more: Any) -> dict[str, bytes]:
        return _in_m(good.genai_files({**good.GENAI, "model": {**good.GENAI["model"], **more}}))

    decoder: dict[str, Any] = good.GENAI["model"]["decoder"]
    options = {"custom_ops_library": "/tmp/evil.so"}
    libraries = {
        "a custom library": {"decoder": {**decoder, "session_options": options}},
        "a library further in": {"decoder": {**decoder, "pipeline": [{"x": {"session_options": options}}]}},
        "profiling into a file": {"decoder": {**decoder, "session_options": {"enable_profiling": "/tmp/x"}}},
    }
    for name, more in libraries.items():
        yield Broken(f"genai_config.json: {name}", INSPECT, changed(**more), "genai_config.json")
    for name in ("../model.onnx", "/etc/passwd", "", 7, "nothing.onnx", None):
        files = changed(decoder={**decoder, "filename": name})
        yield Broken(f"genai_config.json: the file {name!r}", INSPECT, files, "m")
    yield Broken("genai_config.json: of several graphs", INSPECT, changed(vision={"filename": "v.onnx"}), "vision")
    for name, raw in broken_bytes(text(good.GENAI)).items():
        files = _in_m({**good.genai_files(), "genai_config.json": raw})
        yield Broken(f"genai_config.json {name}", INSPECT, files, "genai_config.json")
    free = frozenset({"search", "inputs", "outputs", "session_options", "type", "bos_token_id", "eos_token_id",
                      "pad_token_id"})  # fmt: skip
    for name, value, may in json_mutations(good.GENAI, free=free, optional=free):
        yield Broken(f"genai_config.json: {name}", INSPECT, _in_m(good.genai_files(value)), "m", may_pass=may)
    yield Broken("genai_config.json: odd", INSPECT, changed(decoder=ODD), "genai_config.json")


def _in_m(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"m/{name}": raw for name, raw in files.items()}
