"""The field's words as types, one word for one thing; and the base of every model that is read from files."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "COMPUTE_PRECISIONS", "DEFAULT_COMPUTE", "DEVICES", "EXPORTERS", "FORMATS", "GGUF_PRECISIONS", "MARGIN_TOLERANCE",
    "MOST_NATURAL", "PAIRINGS", "PRECISIONS", "SETTINGS", "AskedCompute", "ComputePrecision", "Device", "Exporter",
    "Family", "Format", "GgufPrecision", "Layout", "Natural", "PairNames", "Pairing", "PlainPrecision", "Precision",
    "Settings", "StrictModel", "pairing_of", "plain_precision",
]  # fmt: skip


class StrictModel(BaseModel):
    """A model whose objects do not change and which accepts no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid")


MOST_NATURAL = 2**53
#: A count, a size in bytes or a time in ns; more is not of this world and does not fit what is computed with it.
Natural = Annotated[int, Field(ge=0, le=MOST_NATURAL)]
Family = Literal["encoder-decoder", "decoder-only"]
#: What the two models of a pair have in common: parameters within 2 %, the decoder, or the score of their answers.
Pairing = Literal["total", "decoder", "quality"]
#: An encoder-decoder and a decoder-only checkpoint; without a pairing it is "total".
PairNames = tuple[str, str] | tuple[str, str, Pairing]
Format = Literal["openvino", "onnx", "torch", "gguf", "ctranslate2"]
Layout = Literal["dynamic", "static"]
#: Weights as a GGUF file names its mixture of types: what llama.cpp's quantiser makes, in its own names.
GgufPrecision = Literal[
    "q1_0", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q2_k_s", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m",
    "q5_k_s", "q5_k_m", "q6_k", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "iq3_s",
    "iq3_m", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0", "mxfp4", "nvfp4",
]  # fmt: skip
PlainPrecision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Precision = Literal[PlainPrecision, GgufPrecision]
#: int16, int8: activations quantised to that many bits before they meet quantised weights, as Qualcomm's HTP (16) and
#: ONNX Runtime's ``MatMulNBits`` (8) do.
ComputePrecision = Literal["fp32", "fp16", "bf16", "int16", "int8"]
#: "default": nothing is asked, and the engine's own choice is read back.
AskedCompute = Literal[ComputePrecision, "default"]
#: fair: every engine computes in the asked precision, K/V alike; shipped: each engine's own defaults, untouched.
Settings = Literal["fair", "shipped"]
#: slmbench: our own builder, for the types that are described to it; generic: the transformers network itself, traced;
#: given: nobody here exported it, the user brought it.
Exporter = Literal["slmbench", "generic", "optimum", "genai", "ctranslate2", "none", "given"]
Device = Literal["cpu", "gpu", "npu"]

FORMATS: tuple[Format, ...] = get_args(Format)
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)
PRECISIONS: tuple[PlainPrecision, ...] = get_args(PlainPrecision)
GGUF_PRECISIONS: tuple[GgufPrecision, ...] = get_args(GgufPrecision)
COMPUTE_PRECISIONS: tuple[ComputePrecision, ...] = get_args(ComputePrecision)
SETTINGS: tuple[Settings, ...] = get_args(Settings)
EXPORTERS: tuple[Exporter, ...] = get_args(Exporter)
DEVICES: tuple[Device, ...] = get_args(Device)

#: What is computed in where nobody says: neither the user nor the backend (``ComputeDefault``). Weights of fewer bits
#: are expanded; fp32 is the exact choice.
DEFAULT_COMPUTE: dict[Precision, ComputePrecision] = {
    "fp32": "fp32",
    "fp16": "fp16",
    "bf16": "bf16",
    "int8": "fp32",
    "int4": "fp32",
    # ggml brings activations to 8 bits before they meet quantised weights.
    **dict.fromkeys(GGUF_PRECISIONS, "int8"),
}

#: A golden token counts in `agreement` only where the reference's top-1 margin (logit difference between the
#: first and the second choice, in units of the logits' standard deviation) exceeds this. fp32: rounding only. The
#: others: about the largest margin at which rounding of weights or activations was seen to change a choice.
MARGIN_TOLERANCE: dict[str, float] = {
    "fp32": 1e-3,
    "fp16": 3e-2,
    "bf16": 2e-1,
    "int8": 2.5e-1,
    "int4": 0.0,
}


def pairing_of(pair: PairNames) -> Pairing:
    """Return what the two of a pair have in common."""
    return pair[2] if len(pair) == 3 else "total"


def plain_precision(precision: Precision) -> PlainPrecision:
    """Return the precision whose tolerances hold for these weights: int8 for GGUF types of 6 bits or more, or int4."""
    for plain in PRECISIONS:
        if precision == plain:
            return plain
    return "int8" if precision in ("q8_0", "q6_k") else "int4"


def not_boolean(given: object) -> object:
    """Return what is given, unless YAML made true or false of it: pydantic would count with them as 1 and 0.

    Raises:
        ValueError: it is a boolean.
    """
    if isinstance(given, bool):
        raise ValueError(f"{str(given).lower()} is not a number")
    return given
