"""What is known of an artifact that the user brings: its layout, weights, files and who made it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slmbench.terms import ComputePrecision, Family, Format, Precision, StrictModel

#: The layouts that are known: a GGUF file (or its parts), optimum-intel's IR folder, a folder of onnxruntime-genai,
#: and ONNX files as optimum and transformers.js name them.
GivenLayout = Literal["gguf", "openvino_ir", "ort_genai", "hf_onnx", "ctranslate2"]
#: As an artifact's roles; ``decode`` is the graph of steps where the prompt's is another.
GivenRole = Literal["model", "encoder", "decoder", "decode", "vision", "embedding"]
LAYOUTS: dict[GivenLayout, str] = {
    "gguf": "GGUF",
    "openvino_ir": "OpenVINO IR",
    "ort_genai": "onnxruntime-genai folder",
    "hf_onnx": "Hugging Face ONNX",
    "ctranslate2": "CTranslate2 folder",
}
FORMATS_OF: dict[GivenLayout, Format] = {
    "gguf": "gguf",
    "openvino_ir": "openvino",
    "ort_genai": "onnx",
    "hf_onnx": "onnx",
    "ctranslate2": "ctranslate2",
}


def default_backend(layout: GivenLayout, family: Family) -> str:
    """Return the name of the backend that artifacts of this layout are deployed with."""
    if layout == "openvino_ir":
        return "openvino_genai" if family == "decoder-only" else "openvino"
    names: dict[GivenLayout, str] = {
        "gguf": "llama_cpp",
        "ort_genai": "onnxruntime_genai",
        "hf_onnx": "onnxruntime",
        "ctranslate2": "ctranslate2",
    }
    return names[layout]


_Count = Annotated[int, Field(ge=0, le=2**53)]
#: What a graph costs more than it would have to.
ALL_LOGITS = "logits of all positions"
CROSS_KV_AGAIN = "cross K/V computed at every step"
NO_SHARED_BUFFER = "no shared K/V buffer"
#: Tokens are right, as all logits are divided by one number; probabilities are not.
SCALED_LOGITS = "logits scaled as for a head that is the embedding: its probabilities are wrong"


class WeightType(StrictModel):
    """Weights of one type: how many there are and the bytes they take, scales and zero points included."""

    name: str
    weights: _Count
    size_bytes: _Count


class GivenFile(StrictModel):
    """One file of a given artifact; ``path`` is relative to its folder, with forward slashes."""

    path: str
    size_bytes: _Count
    sha256: str


class GivenRecord(StrictModel):
    """An artifact that the user brings, as its headers describe it."""

    layout: GivenLayout
    #: What the weights are: the file's own name of its mixture (GGUF), else the type that most weights have.
    precision: Precision
    #: What the engine computes in, where the file decides that and not its weights alone.
    compute: ComputePrecision | None = None
    weight_types: tuple[WeightType, ...]
    #: Of the projector file of a GGUF model, where pictures are asked for: it is no part of a run of text alone.
    vision_types: tuple[WeightType, ...] = ()
    #: Bytes of weights that one decode step reads.
    decode_weight_bytes: _Count
    files: tuple[GivenFile, ...]
    #: Role of each graph and its file.
    graphs: tuple[tuple[GivenRole, str], ...]
    #: Who made it, by the file's own account.
    producer: tuple[tuple[str, str], ...] = ()
    context_length: int | None = None
    #: Kind and size of the tokenizer that comes with it; empty where none does.
    tokenizer: str = ""
    #: How the graph expresses attention.
    attention: str = ""
    #: What the graph does at a cost that others avoid.
    flags: tuple[str, ...] = ()
    #: Inputs of the graph that a loop has to feed, sorted.
    inputs: tuple[str, ...] = ()

    @property
    def format(self) -> Format:
        """Return the format of its graphs."""
        return FORMATS_OF[self.layout]

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights together."""
        return sum(one.size_bytes for one in self.weight_types)

    @property
    def weights(self) -> int:
        """Return how many weights it has."""
        return sum(one.weights for one in self.weight_types)

    @property
    def bits_per_weight(self) -> float:
        """Return the bits that a weight takes on average, scales and zero points included."""
        return 8 * self.weight_bytes / self.weights if self.weights else 0.0

    def of_case(self, *, pictures: bool) -> GivenRecord:
        """Return the record with all weights that a case reads: with ``pictures`` the projector file's among them."""
        if not pictures or not self.vision_types:
            return self
        found: dict[str, tuple[int, int]] = {}
        for one in (*self.weight_types, *self.vision_types):
            count, size = found.get(one.name, (0, 0))
            found[one.name] = count + one.weights, size + one.size_bytes
        return self.model_copy(update={"weight_types": weight_types(found), "vision_types": ()})


def weight_types(found: dict[str, tuple[int, int]]) -> tuple[WeightType, ...]:
    """Return the types of (weights, bytes) by name, the largest first."""
    ordered = sorted(found.items(), key=lambda item: -item[1][1])
    return tuple(WeightType(name=name, weights=count, size_bytes=size) for name, (count, size) in ordered)
