"""Which checkpoints are measured, and what is said of the others, by their config alone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from slmbench.errors import BadInputError, nearest, one_line
from slmbench.models import known_types
from slmbench.models.dequantize import can_dequantize
from slmbench.terms import Family


def check_full_precision(config: Mapping[str, Any], where: str, *, dequantize: bool = False) -> None:
    """Refuse a config that says that its weights are packed in fewer bits; with ``dequantize`` those that stay so.

    Raises:
        BadInputError: it does; the text says what would work.
    """
    method = quantisation(config)
    if method is not None and not (dequantize and can_dequantize(method)):
        raise BadInputError(quantised(where, method))


def quantisation(config: Mapping[str, Any]) -> str | None:
    """Return how a config says that its weights are packed: "awq", "fp8", "MLX"; None where it does not."""
    for section in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        for name in ("quantization_config", "compression_config"):
            found = section.get(name)
            if isinstance(found, Mapping):
                return one_line(str(found.get("quant_method") or "unknown method"))[:40]
    return "MLX" if isinstance(config.get("quantization"), Mapping) else None


def quantised(where: str, method: str) -> str:
    """Return the line that says why quantised weights are not taken, and what to do."""
    way = (
        "`slmbench run --dequantize` has transformers turn them into it once. Or give"
        if can_dequantize(method)
        else "Give"
    )
    return (
        f"{where}: its weights are quantised ({method}); slmbench exports from weights in full precision. {way} the "
        "checkpoint that this one was made from, or measure the GGUF or OpenVINO artifact of this model as it is"
    )


def family_of(kind: str, values: Mapping[str, Any], text: Mapping[str, Any] | None, where: str) -> Family:
    """Return the family of a model type; ``values`` are its config's, ``text`` those of a text part that it nests.

    Raises:
        BadInputError: it generates no text from text.
    """
    named = values.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    two_sided = bool(values.get("is_encoder_decoder")) and not name.endswith("ForCausalLM")
    if not known_types.is_installed():
        return "encoder-decoder" if two_sided else "decoder-only"
    if kind in known_types.of_task("seq2seq") and two_sided:
        return "encoder-decoder"
    if kind in known_types.HEADED:
        return "decoder-only"
    is_masked = kind in known_types.of_task("masked")
    if kind in known_types.of_task("causal") and not two_sided and (not is_masked or values.get("is_decoder")):
        return "decoder-only"
    if is_masked:
        raise BadInputError(
            f"{where}: '{kind}' is an encoder-only model and generates no text; "
            "slmbench measures encoder-decoders and decoder-only models"
        )
    if not known_types.knows(kind):
        # With its own code, under Llama's key names.
        return "encoder-decoder" if two_sided else "decoder-only"
    if text is not None:
        raise BadInputError(
            f"{where}: transformers has no network of its own for '{text.get('model_type')}', the text part of "
            f"'{kind}'; slmbench measures text parts that can be loaded without the rest"
        )
    raise BadInputError(
        f"{where}: '{kind}' has no part that turns text into text (pictures or sound go in or come out); "
        "slmbench measures encoder-decoders and decoder-only models of text"
    )


def unknown(kind: str, where: str, *, brings_code: bool) -> str:
    """Return the line about a model type that transformers does not know."""
    if brings_code:
        return (
            f"{where}: '{one_line(kind)[:60]}' needs the Python code that comes with the checkpoint; "
            "`slmbench run --trust-remote-code` lets it run, if you trust whoever wrote it"
        )
    return (
        f"{where}: unsupported architecture '{one_line(kind)[:60]}': transformers {version('transformers')} does not "
        "know this model_type; a newer one may." + nearest(kind, known_types.names())
    )
