"""Small artifacts as people bring them, made by hand: just enough for a header to be read, nothing to run."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

#: As GGUF numbers them.
U32, F32, BOOL, TEXT, LIST = 4, 6, 7, 8, 9
WIDTH, LAYERS, VOCABULARY, FFN = 64, 2, 96, 128


def gguf_text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", TEXT) + gguf_text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, list) and value and isinstance(value[0], float):
        return struct.pack("<IIQ", LIST, F32, len(value)) + struct.pack(f"<{len(value)}f", *value)
    if isinstance(value, list):
        return struct.pack("<IIQ", LIST, TEXT, len(value)) + b"".join(map(gguf_text, value))
    return struct.pack("<II", U32, value)


VALUES: dict[str, Any] = {
    "general.architecture": "llama",
    "general.quantized_by": "somebody",
    "general.file_type": 0,
    "llama.block_count": LAYERS,
    "llama.context_length": 256,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": FFN,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [f"t{index}" for index in range(VOCABULARY)],
    "tokenizer.ggml.eos_token_id": 2,
}
#: Name to shape (rows last, as ggml has it) and ggml's number of the type.
TENSORS: dict[str, tuple[tuple[int, ...], int]] = {
    "token_embd.weight": ((WIDTH, VOCABULARY), 0),
    "output_norm.weight": ((WIDTH,), 0),
    "blk.0.ffn_gate.weight": ((WIDTH, FFN), 8),
}
#: A projector file for pictures, as far as its header alone says what it is.
PROJECTOR: dict[str, Any] = {
    "general.architecture": "clip",
    "general.type": "mmproj",
    "general.name": "Somebody's Tiny VLM",
    "clip.has_vision_encoder": True,
    "clip.projector_type": "idefics3",
    "clip.vision.image_size": 64,
    "clip.vision.projection_dim": WIDTH,
    "clip.vision.image_mean": [0.5, 0.5, 0.5],
}
PROJECTOR_TENSORS: dict[str, tuple[tuple[int, ...], int]] = {"v.patch_embd.weight": ((16, 16, 3, 32), 0)}
_BYTES = {0: (1, 4), 8: (32, 34)}


def gguf_bytes(
    values: dict[str, Any] | None = None,
    tensors: dict[str, tuple[tuple[int, ...], int]] | None = None,
    *,
    counts: tuple[int, int] | None = None,
    version: int = 3,
    magic: bytes = b"GGUF",
) -> bytes:
    """Return a GGUF file; ``counts`` are the tensors and values that it claims to have."""
    values, tensors = VALUES if values is None else values, TENSORS if tensors is None else tensors
    claimed = counts or (len(tensors), len(values))
    head = magic + struct.pack("<IQQ", version, *claimed)
    for name, value in values.items():
        head += gguf_text(name) + gguf_value(value)
    data = b""
    for name, (shape, kind) in tensors.items():
        elements = 1
        for size in shape:
            elements *= size
        block, size = _BYTES.get(kind, (1, 4))
        head += gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        held = min(elements, 1 << 20) // block * size
        data += bytes(-(-held // 32) * 32)
    return head + bytes(-len(head) % 32) + data


CONFIG = {
    "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": FFN,
    "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 256, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": True,
}  # fmt: skip


def ir_xml(*, extra: str = "", inputs: str = "", weight: str = "", before: str = "") -> str:
    """Return the XML of a small IR with one weight of 96x64 f32 and one state."""
    weight = weight or f'element_type="f32" shape="{VOCABULARY}, {WIDTH}" offset="0" size="{VOCABULARY * WIDTH * 4}"'
    return f"""<?xml version="1.0"?>{before}
<net name="Model0" version="11"><layers>
<layer id="0" name="input_ids" type="Parameter" version="opset1"><data shape="?,?" element_type="i64"/>
<output><port id="0" precision="I64" names="input_ids"><dim>-1</dim><dim>-1</dim></port></output></layer>{inputs}
<layer id="1" name="table" type="Const" version="opset1"><data {weight}/>
<output><port id="0" precision="FP32"><dim>{VOCABULARY}</dim><dim>{WIDTH}</dim></port></output></layer>
<layer id="2" name="state" type="ReadValue" version="opset6"/>{extra}
<layer id="3" name="head" type="MatMul" version="opset1"/>
<layer id="4" name="logits" type="Result" version="opset1"><input><port id="0">
<dim>-1</dim><dim>-1</dim><dim>{VOCABULARY}</dim></port></input></layer>
</layers><edges><edge from-layer="2" from-port="0" to-layer="3" to-port="0"/>
<edge from-layer="1" from-port="0" to-layer="3" to-port="1"/>
<edge from-layer="3" from-port="0" to-layer="4" to-port="0"/></edges>
<rt_info><optimum><optimum_intel_version value="2.2.0"/></optimum></rt_info></net>"""


def ir_files(xml: str | None = None, **more: bytes) -> dict[str, bytes]:
    """Return an IR folder's files."""
    return {
        "openvino_model.xml": (ir_xml() if xml is None else xml).encode(),
        "openvino_model.bin": bytes(VOCABULARY * WIDTH * 4),
        "config.json": json.dumps(CONFIG).encode(),
        **more,
    }


def _field(number: int, payload: bytes | int) -> bytes:
    """Return a protobuf field: of a number or of bytes."""
    if isinstance(payload, int):
        return _varint(number << 3) + _varint(payload)
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def _port(name: str, kind: int, *sizes: int) -> bytes:
    shape = b"".join(_field(1, _field(1, size) if size >= 0 else _field(2, b"n")) for size in sizes)
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def _node(kind: str, inputs: list[str], outputs: list[str], domain: str = "") -> bytes:
    body = b"".join(_field(1, one.encode()) for one in inputs) + b"".join(_field(2, one.encode()) for one in outputs)
    return body + _field(4, kind.encode()) + (_field(7, domain.encode()) if domain else b"")


def onnx_bytes(
    *,
    location: str | None = None,
    domain: str = "",
    extra_input: str = "",
    raw: int | None = None,
    kind: str = "GroupQueryAttention",
    length: int = -1,
) -> bytes:
    """Return a small ONNX graph: one weight, in the file or in external data at ``location``; one operator.

    With a ``length`` its ids are of one fixed shape.
    """
    size = VOCABULARY * WIDTH * 4 if raw is None else raw
    weight = _field(1, WIDTH) + _field(1, VOCABULARY) + _field(2, 1) + _field(8, b"head")
    if location is None:
        weight += _field(9, bytes(size))
    else:
        pairs = {"location": location, "offset": "0", "length": str(size)}
        weight += b"".join(_field(13, _field(1, k.encode()) + _field(2, v.encode())) for k, v in pairs.items())
        weight += _field(14, 1)
    graph = _field(1, _node(kind, ["input_ids", "past_key_values.0.key"], ["x"], "com.microsoft"))
    graph += _field(1, _node("MatMul", ["x", "head"], ["logits"], domain))
    graph += _field(2, b"main") + _field(5, weight)
    graph += _field(11, _port("input_ids", 7, 1 if length > 0 else -1, length)) + _field(
        11, _port("attention_mask", 7, -1, -1)
    )
    graph += _field(11, _port("past_key_values.0.key", 1, -1, 2, -1, 16))
    graph += _field(11, _port(extra_input, 1, -1)) if extra_input else b""
    graph += _field(12, _port("logits", 1, -1, -1, VOCABULARY))
    return _field(1, 8) + _field(2, b"somebody's exporter") + _field(7, graph) + _field(8, _field(2, 20))


GENAI = {
    "model": {
        "type": "llama", "vocab_size": VOCABULARY, "context_length": 256, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": "model.onnx", "head_size": 16, "hidden_size": WIDTH, "num_attention_heads": 4,
            "num_hidden_layers": LAYERS, "num_key_value_heads": 2,
            "inputs": {"input_ids": "input_ids"}, "outputs": {"logits": "logits"},
        },
    },
    "search": {"max_length": 256},
}  # fmt: skip


def genai_files(config: Any = None, onnx: bytes | None = None, **more: bytes) -> dict[str, bytes]:
    """Return a folder of onnxruntime-genai."""
    text = json.dumps(GENAI if config is None else config).encode()
    return {"genai_config.json": text, "model.onnx": onnx_bytes() if onnx is None else onnx, **more}


def hf_files(onnx: bytes | None = None, name: str = "onnx/model_q4f16.onnx", **more: bytes) -> dict[str, bytes]:
    """Return a folder of Hugging Face's ONNX layout."""
    return {"config.json": json.dumps(CONFIG).encode(), name: onnx_bytes() if onnx is None else onnx, **more}


#: Names, shapes and CTranslate2's numbers of types of a decoder-only model of one layer; scalars with their value.
CT2_VARIABLES: dict[str, tuple[tuple[int, ...], int]] = {
    "decoder/embeddings/weight": ((96, 64), 0),
    "decoder/layer_0/ffn/linear_0/weight": ((128, 64), 1),
    "decoder/layer_0/ffn/linear_0/weight_scale": ((128,), 0),
    "decoder/layer_0/self_attention/linear_0/weight": ((192, 64), 0),
}


def ct2_bytes(
    variables: dict[str, tuple[tuple[int, ...], int]] | None = None,
    *,
    specification: str = "TransformerDecoderModelSpec",
    version: int = 6,
    heads: int | None = 4,
    aliases: tuple[tuple[str, str], ...] = (("decoder/projection/weight", "decoder/embeddings/weight"),),
    scale: float | None = None,
    more: int = 0,
) -> bytes:
    """Return a model.bin of CTranslate2; ``scale`` is its logits', ``more`` is added to the count that it claims."""
    sizes = (4, 1, 2, 4, 2, 2)

    def name(one: str) -> bytes:
        return struct.pack("<H", len(one.encode()) + 1) + one.encode() + b"\0"

    def variable(one: str, shape: tuple[int, ...], kind: int, raw: bytes) -> bytes:
        dims = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
        return name(one) + dims + struct.pack("<BI", kind, len(raw)) + raw

    chosen = CT2_VARIABLES if variables is None else variables
    made = [variable(key, shape, kind, bytes(math.prod(shape) * sizes[kind])) for key, (shape, kind) in chosen.items()]
    if heads is not None:
        made.append(variable("decoder/num_heads", (), 2, struct.pack("<h", heads)))
    if scale is not None:
        made.append(variable("decoder/scale_outputs", (), 0, struct.pack("<f", scale)))
    head = struct.pack("<I", version) + name(specification) + struct.pack("<II", 1, len(made) + more)
    tail = struct.pack("<I", len(aliases)) + b"".join(name(alias) + name(one) for alias, one in aliases)
    return head + b"".join(made) + tail


def ct2_files(model: bytes | None = None, texts: object = None, **more: bytes) -> dict[str, bytes]:
    """Return a folder of CTranslate2."""
    vocabulary = [f"t{index}" for index in range(96)] if texts is None else texts
    return {
        "model.bin": ct2_bytes() if model is None else model,
        "config.json": json.dumps({"eos_token": "t2"}).encode(),
        "vocabulary.json": json.dumps(vocabulary).encode(),
        **more,
    }
