"""Sessions of openvino-genai: paged attention stepped by us, and its stateful pipeline with a streamer.

Both take token ids, so that neither a tokenizer nor a configuration file is needed next to the graph. What the engine
compiled is private to its pipelines, but at log level 3 they print the compiled model's properties: that print is
what is read back here, of the very model that runs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from slmbench.backend import Placement, SessionOptions, Tokens
from slmbench.errors import BadInputError, CannotRunError, last_error_line
from slmbench.models.artifact import Artifact
from slmbench.system.telemetry import silence_telemetry
from slmbench.terms import Device

from ..common.reserved import Reserved
from .genai_npu_session import make_stamper, only_graph
from .options import PRECISION, device_properties, settings_in_effect

_ENGINE_NAMES = {"cpu": "CPU", "gpu": "GPU"}
#: The heading under which each pipeline prints its compiled model, and what slmbench calls its attention.
_PATHS = {"LLM with Paged Attention": "paged", "Stateful LLM model": "SDPA", "VLM language model": "SDPA"}
_LOG_LEVEL, _LOG_INFO = "OPENVINO_LOG_LEVEL", "3"
#: More tokens than any prompt has: a prompt is computed in one piece, as openvino-genai's LLMPipeline does too.
_WHOLE_PROMPT = 2**31


class GenaiSession(ABC):
    """What both pipelines share. Not thread-safe; opening redirects the process's standard output for a moment."""

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Load and compile the artifact.

        Raises:
            CannotRunError: openvino-genai refuses the graph or a property, or would read more than the graph.
        """
        silence_telemetry()
        self._device = device
        checkpoint = artifact.manifest.checkpoint
        self._reserved, self._vocabulary = Reserved(checkpoint), checkpoint.geometry.vocab_size
        engine_name = _ENGINE_NAMES[device]
        self._asked = properties = device_properties(options, engine_name)
        folder = self._place(artifact)
        began = perf_counter_ns()
        try:
            with _printed() as text:
                self._pipeline: Any = self._open(str(folder), engine_name, properties)
        except (RuntimeError, UnicodeDecodeError) as error:
            reason = last_error_line(error)
            raise CannotRunError(f"{artifact.graph('model')}: openvino-genai does not load it: {reason}") from error
        self._load_ns = perf_counter_ns() - began
        self._compiled = _properties_in("".join(text))

    def _place(self, artifact: Artifact) -> Path:
        """Return the folder that the pipeline is given; raises as :func:`only_graph`."""
        return only_graph(artifact).parent

    @abstractmethod
    def _open(self, folder: str, engine_name: str, properties: dict[str, Any]) -> Any:
        """Return the pipeline."""

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Remember the shape: the engine allocates by itself, while warm-up runs."""
        self._reserved.take(batch, input_tokens, output_tokens)

    def _config(self, output_tokens: int) -> Any:
        """Return a greedy configuration for exactly so many tokens."""
        import openvino_genai

        config = openvino_genai.GenerationConfig(max_new_tokens=output_tokens, do_sample=False)
        ends = self._reserved.end_tokens
        if ends:
            # Up to the smallest number of tokens, those that end a sequence have probability 0.
            config.set_eos_token_id(ends[0])
            config.stop_token_ids = set(ends)
            config.min_new_tokens = output_tokens
        else:
            # One must be named; none of the vocabulary ends a sequence.
            config.set_eos_token_id(self._vocabulary)
            config.ignore_eos = True
        return config

    def placement(self) -> Placement:
        """Return the device that the compiled model names; its nodes are private to the pipeline."""
        return Placement(self._device, self._compiled.get("EXECUTION_DEVICES", "unknown").split(".")[0].lower())

    def compute_precision(self) -> str:
        """Return the inference precision that the compiled model names."""
        name = self._compiled.get("INFERENCE_PRECISION_HINT", "unknown")
        return str(PRECISION.get(name, name))

    def settings(self) -> dict[str, tuple[str, str]]:
        """Return the K/V cache's precision, the group of dynamic quantisation and the streams."""
        return settings_in_effect(self._asked, [self._compiled.__getitem__])

    def threads(self) -> int:
        """Return the CPU threads that the compiled model names; 0 on a GPU."""
        return int(self._compiled.get("INFERENCE_NUM_THREADS", "0")) if self._device == "cpu" else 0

    def attention_path(self) -> str:
        """Return "paged" or "SDPA", by the pipeline that compiled the model."""
        return _PATHS.get(self._compiled.get("Model", ""), "unknown")

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load": reading, transforming and compiling, which the pipeline does in one."""
        return {"load": self._load_ns}

    def close(self) -> None:
        """Free the pipeline."""
        self._pipeline = None


class PagedSession(GenaiSession):
    """Continuous batching over paged attention, what openvino-genai runs by default; prefixes are not kept."""

    _requests = 0

    def _open(self, folder: str, engine_name: str, properties: dict[str, Any]) -> Any:
        import openvino_genai

        return openvino_genai.ContinuousBatchingPipeline(folder, whole_prompts(), engine_name, properties)

    def generate(self, input_ids: Tokens, output_tokens: int) -> tuple[Tokens, list[int]]:
        """Generate greedily from prompts ``[batch, input]``; a stamp is when the last row had its token.

        Raises:
            BadInputError: the shape is beyond what is reserved.
        """
        import openvino as ov

        self._reserved.start(input_ids, output_tokens=output_tokens)
        pipeline, config = self._pipeline, self._config(output_tokens)
        handles = []
        for row in input_ids:
            ids = ov.Tensor(np.ascontiguousarray(row[None], dtype=np.int64))
            handles.append(pipeline.add_request(self._requests, ids, config))
            self._requests += 1
        rows: list[list[int]] = [[] for _ in handles]
        stamps: list[int] = []
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for handle, row_tokens in zip(handles, rows, strict=True):
                if handle.can_read():
                    (given,) = handle.read().values()
                    row_tokens.extend(given.generated_ids)
            if min(map(len, rows)) > len(stamps):
                stamps.append(perf_counter_ns())
        return np.array([row_tokens[: len(stamps)] for row_tokens in rows], dtype=np.int64), stamps


class StatefulSession(GenaiSession):
    """The stateful pipeline: the K/V are the graph's own states, attention is OpenVINO's fused SDPA. Batch 1."""

    def _open(self, folder: str, engine_name: str, properties: dict[str, Any]) -> Any:
        import openvino_genai

        return openvino_genai.LLMPipeline(folder, engine_name, ATTENTION_BACKEND="SDPA", **properties)

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Remember the shape.

        Raises:
            BadInputError: more than one prompt: the pipeline streams only one, so tokens could not be stamped.
        """
        if batch != 1:
            raise BadInputError(f"openvino-genai's SDPA pipeline streams 1 prompt at a time, {batch} are asked")
        super().reserve(batch, input_tokens, output_tokens)

    def generate(self, input_ids: Tokens, output_tokens: int) -> tuple[Tokens, list[int]]:
        """Generate greedily from one prompt ``[1, input]``.

        Raises:
            BadInputError: the shape is beyond what is reserved.
        """
        import openvino as ov

        self._reserved.start(input_ids, output_tokens=output_tokens)
        stamps: list[int] = []
        ids = ov.Tensor(np.ascontiguousarray(input_ids, dtype=np.int64))
        result = self._pipeline.generate(ids, self._config(output_tokens), make_stamper(stamps))
        return np.array(result.tokens, dtype=np.int64), stamps


def whole_prompts() -> Any:
    """Return how paged attention schedules: each prompt is read, and in one piece."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    # A repeated prompt would be answered from the cache instead of being read.
    scheduler.enable_prefix_caching = False
    scheduler.max_num_batched_tokens = _WHOLE_PROMPT
    return scheduler


@contextmanager
def _printed() -> Iterator[list[str]]:
    """Let openvino-genai print what it compiles, and give that text when the block is left without an error.

    It prints from C++, so the file descriptor itself is turned to a file.
    """
    text: list[str] = []
    before = os.environ.get(_LOG_LEVEL)
    sys.stdout.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(1)
        os.environ[_LOG_LEVEL] = _LOG_INFO
        os.dup2(file.fileno(), 1)
        try:
            yield text
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            if before is None:
                del os.environ[_LOG_LEVEL]
            else:
                os.environ[_LOG_LEVEL] = before
            file.seek(0)
            text.append(file.read().decode(errors="replace"))


def _properties_in(printed: str) -> dict[str, str]:
    """Return the properties of the compiled model in openvino-genai's print, and "Model", its heading.

    Of other models that it prints, as tokenizers and vision parts, nothing is taken.
    """
    found: dict[str, str] = {}
    for line in printed.splitlines():
        name, colon, value = line.partition(": ")
        if name == "Model":
            if found.get("Model") in _PATHS:
                break
            found = {"Model": value.strip()}
        elif colon and found and name.startswith("  "):
            found[name.strip()] = value.strip()
    return found
