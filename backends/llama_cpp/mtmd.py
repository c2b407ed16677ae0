"""libmtmd, llama.cpp's library for pictures, through the ctypes of llama-cpp-python: tiles in, rows of features out."""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.errors import BadInputError, CannotRunError, one_line

from .bindings import load_engine, reported
from .plain_vocabulary import open_vocabulary

_DEVICE = re.compile(r"CLIP using (\S+) backend")
_FLASH = re.compile(r"flash attention is (enabled|disabled)")
_IMAGE = 1
#: What libmtmd spells before a tile of SmolVLM's kind: "<row_1_col_1>".
_TILE = b"<row_"
#: What a pixel may be off a whole number of 0 to 255, once its normalisation is undone.
_TOLERANCE = 0.02


@cache
def load_mtmd() -> Any:
    """Return the module of libmtmd, its log where llama.cpp's is.

    Raises:
        CannotRunError: these bindings come without it.
    """
    _, log = load_engine()
    try:
        from llama_cpp import mtmd_cpp
    except Exception as error:  # it loads a shared library, and raises RuntimeError and others as well as ImportError
        raise CannotRunError(
            f"llama-cpp-python comes without libmtmd, which pictures need: {one_line(str(error))[:200]}"
        ) from error
    mtmd_cpp.mtmd_log_set(log.callback, ctypes.c_void_p(0))
    return mtmd_cpp


class Projector:
    """A projector file that libmtmd has opened on the CPU."""

    def __init__(self, path: Path, threads: int, *, flash: bool | None, words: bool, across: int = 1) -> None:
        """Open it, and let it reserve its buffers.

        ``flash``: None for its own choice. ``words``: libmtmd spells words around a picture of this type. ``across``:
        how many tiles it cuts from the longer side of every picture.

        Raises:
            CannotRunError: libmtmd refuses the file: its first error.
        """
        self._mtmd, self.threads, self._across = load_mtmd(), threads, across
        engine, log = load_engine()
        params = self._mtmd.mtmd_context_params_default()
        params.use_gpu = params.print_timings = False
        params.n_threads = threads
        params.flash_attn_type = -1 if flash is None else int(flash)
        began = perf_counter_ns()
        # Not the model's: the words around a picture are the prompt's own.
        vocabulary = open_vocabulary() if words else None
        with log.kept() as lines:
            self._handle = self._mtmd.mtmd_init_from_file(str(path).encode(), vocabulary, params)
        self.load_ns = perf_counter_ns() - began
        if not self._handle:
            if vocabulary:
                engine.llama_model_free(vocabulary)
            raise CannotRunError(f"{path}: libmtmd does not load it: {reported(lines)}")
        said = "".join(text for _, text in lines)
        device, chosen = _DEVICE.search(said), _FLASH.search(said)
        #: Where it computes and whether with flash attention, as far as its log says so.
        self.device = None if device is None else device[1]
        self.flash = None if chosen is None else chosen[1]
        self._chunks: list[Any] = []
        self.close = weakref.finalize(self, _free, engine, self._mtmd, self._handle, vocabulary, self._chunks)
        self.close.atexit = False

    @property
    def joins_places(self) -> bool:
        """Return whether the text's network reads the places of a picture in both directions."""
        return bool(self._mtmd.mtmd_decode_use_non_causal(self._handle, None))

    def prepare(self, tiles: Sequence[NDArray[np.uint8]]) -> list[Tile]:
        """Return tiles ``[height, width, 3]`` of the size that the vision part reads, normalised by libmtmd.

        Those that were returned before are forgotten. What brings every picture to a length and cuts it gets strips of
        that very length, which it cuts into the tiles that they were made of and leaves as they are.

        Raises:
            BadInputError: libmtmd makes other tiles of them.
        """
        _forget(self._mtmd, self._chunks)
        found: list[Tile] = []
        for begin in range(0, len(tiles), self._across):
            some = list(tiles[begin : begin + self._across])
            blank = [np.zeros_like(some[0])] * (self._across - len(some))
            found += self._cut(np.concatenate([*some, *blank], axis=1))[: len(some)]
        return found

    def _cut(self, strip: NDArray[np.uint8]) -> list[Tile]:
        """Return what libmtmd makes of a strip of tiles."""
        mtmd, bytes_of = self._mtmd, ctypes.POINTER(ctypes.c_uint8)
        strip = np.ascontiguousarray(strip)
        bitmap = mtmd.mtmd_bitmap_init(strip.shape[1], strip.shape[0], ctypes.cast(strip.ctypes.data, bytes_of))
        chunks = mtmd.mtmd_input_chunks_init()
        self._chunks.append(chunks)
        marker = mtmd.mtmd_default_marker()
        text = mtmd.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=False)
        _, log = load_engine()
        with log.kept() as lines:
            code = mtmd.mtmd_tokenize(self._handle, chunks, ctypes.byref(text), (ctypes.c_void_p * 1)(bitmap), 1)
        mtmd.mtmd_bitmap_free(bitmap)
        if code:
            raise BadInputError(f"libmtmd prepares no picture of {strip.shape[1]}x{strip.shape[0]}: {reported(lines)}")
        found = [mtmd.mtmd_input_chunks_get(chunks, place) for place in range(mtmd.mtmd_input_chunks_size(chunks))]
        images = [place for place, one in enumerate(found) if mtmd.mtmd_input_chunk_get_type(one) == _IMAGE]
        # Of SmolVLM's kind it makes the whole strip, smaller, as well; the words before a tile say which it is.
        named = [place for place in images if place and _TILE in self._words(found[place - 1])]
        images = named or images
        if len(images) != self._across:
            raise BadInputError(f"libmtmd makes {len(images)} tiles of {strip.shape[1]}x{strip.shape[0]} pixels")
        return [Tile(found[one], int(mtmd.mtmd_input_chunk_get_n_tokens(found[one]))) for one in images]

    def _words(self, chunk: Any) -> bytes:
        """Return the text of a chunk, in the vocabulary of bytes; none where it is no text."""
        count = ctypes.c_size_t()
        ids = self._mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        return bytes(one for one in ids[: count.value] if 0 <= one < 256) if ids else b""

    def encode(self, tile: Tile) -> int:
        """Compute the features of a tile; return where ``[rows, width]`` floats of them are, until the next call.

        Raises:
            CannotRunError: libmtmd fails.
        """
        code = self._mtmd.mtmd_encode_chunk(self._handle, tile.chunk)
        if code:
            raise CannotRunError(f"libmtmd computes no features: mtmd_encode_chunk gave {code}")
        return ctypes.addressof(self._mtmd.mtmd_get_output_embd(self._handle).contents)


class Tile:
    """A tile that is prepared, and how many rows of features it becomes."""

    def __init__(self, chunk: Any, rows: int) -> None:
        """Keep libmtmd's handle of it."""
        self.chunk, self.rows = chunk, rows


def bytes_of_pixels(
    pixels: NDArray[np.floating[Any]], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.uint8]:
    """Return the pictures ``[n, H, W, 3]`` of 8 bits that a processor normalised to ``[n, 3, H, W]``.

    libmtmd takes pictures of 8 bits and normalises them itself: so it sees the very pixels that other engines see.

    Raises:
        BadInputError: these were no pixels of 8 bits, or were normalised in another way.
    """
    shape = (1, 3, 1, 1)
    whole = (pixels * np.reshape(std, shape) + np.reshape(mean, shape)) * 255
    rounded = np.rint(whole)
    if not np.abs(whole - rounded).max() < _TOLERANCE or rounded.min() < 0 or rounded.max() > 255:
        raise BadInputError("these pixel tensors are not what the projector's mean and deviation make of 8-bit pixels")
    return np.ascontiguousarray(rounded.astype(np.uint8).transpose(0, 2, 3, 1))


def _forget(mtmd: Any, chunks: list[Any]) -> None:
    for one in chunks:
        mtmd.mtmd_input_chunks_free(one)
    chunks.clear()


def _free(engine: Any, mtmd: Any, handle: Any, vocabulary: Any, chunks: list[Any]) -> None:
    """Free what was prepared, then the file, then the vocabulary that it knows."""
    _forget(mtmd, chunks)
    mtmd.mtmd_free(handle)
    if vocabulary:
        engine.llama_model_free(vocabulary)
