"""A model that is nothing but a vocabulary: for libmtmd, which spells the words that it puts around some pictures.

The prompt has its words already, and what libmtmd spells is thrown away; without a vocabulary it makes no tiles of
pictures of these types. Files of slmbench's exporter may have none.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError

from .bindings import load_engine, reported

_TEXT, _LIST = 8, 9
#: Bytes that the byte-level vocabulary writes as they are; the others are characters from 256 on.
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]


def open_vocabulary() -> Any:
    """Return llama.cpp's handle of a model with the 256 bytes as tokens, for the caller to free.

    Raises:
        CannotRunError: llama.cpp cannot be imported, or does not take it.
    """
    engine, log = load_engine()
    with tempfile.TemporaryDirectory(prefix="slmbench-vocabulary-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "bytes.gguf"
        path.write_bytes(_file())
        params = engine.llama_model_default_params()
        params.vocab_only = True
        with log.kept() as lines:
            handle = engine.llama_model_load_from_file(str(path).encode(), params)
    if not handle:
        raise CannotRunError(f"llama.cpp opens no vocabulary of bytes, which libmtmd needs here: {reported(lines)}")
    return handle


def _file() -> bytes:
    """Return a GGUF file of the 256 bytes: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""
    others = iter(range(256, 512))
    letters = [chr(one) if one in _PRINTED else chr(next(others)) for one in range(256)]
    values = [
        _text("general.architecture") + struct.pack("<I", _TEXT) + _text("llama"),
        _text("tokenizer.ggml.model") + struct.pack("<I", _TEXT) + _text("gpt2"),
        _text("tokenizer.ggml.pre") + struct.pack("<I", _TEXT) + _text("default"),
        _text("tokenizer.ggml.tokens") + _texts(letters),
        _text("tokenizer.ggml.merges") + _texts([f"{letters[0]} {letters[1]}"]),
    ]
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + b"".join(values)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _texts(texts: list[str]) -> bytes:
    return struct.pack("<IIQ", _LIST, _TEXT, len(texts)) + b"".join(map(_text, texts))
