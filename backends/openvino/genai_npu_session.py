"""Decoder-only models on Intel's NPU through openvino-genai's own pipeline, or in NPUW on the CPU without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from slmbench.backend import Placement, SessionOptions, Tokens
from slmbench.errors import BadInputError, CannotRunError, last_error_line
from slmbench.models.artifact import GOLDEN_NAME, MANIFEST_NAME, Artifact
from slmbench.system.telemetry import silence_telemetry

from ..common.reserved import Reserved
from . import npu

_HINT = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


class GenaiNpuSession:
    """openvino-genai's static pipeline. Its bounds are part of what is compiled, so reserving compiles.

    Batch 1, greedy. The pipeline gives fewer tokens than asked, without an error, when its K/V cache is full: the
    caller counts.
    """

    def __init__(self, artifact: Artifact, options: SessionOptions) -> None:
        """Take the artifact; it is compiled by :meth:`reserve`, when its bounds are known."""
        self._artifact, self._options = artifact, options
        self._reserved = Reserved(artifact.manifest.checkpoint)
        self._pipeline: Any = None
        self._bounds = (0, 0)
        self._load_ns = 0

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Compile the pipeline for these bounds, unless it is already.

        Raises:
            BadInputError: more than one prompt.
            CannotRunError: the pipeline does not compile.
        """
        if batch != 1:
            raise BadInputError(f"OpenVINO's NPU pipeline takes 1 prompt at a time, {batch} are asked")
        if self._bounds == (input_tokens, output_tokens):
            return
        silence_telemetry()
        import openvino_genai

        self._pipeline = None
        graph = only_graph(self._artifact)
        begin = perf_counter_ns()
        try:
            self._pipeline = openvino_genai.LLMPipeline(
                str(self._artifact.folder), "NPU", **self._properties(input_tokens, output_tokens)
            )
        except (RuntimeError, UnicodeDecodeError) as error:
            reason = last_error_line(error)
            made_by = "" if self._options.simulate else f" {npu.driver_and_compiler()}"
            raise CannotRunError(f"{graph}: openvino-genai does not compile it: {reason}{made_by}") from error
        self._load_ns = perf_counter_ns() - begin
        self._bounds = (input_tokens, output_tokens)
        self._reserved.take(batch, input_tokens, output_tokens)

    def _properties(self, input_tokens: int, output_tokens: int) -> dict[str, Any]:
        """Return bounds and devices. The default list of devices, NPU and CPU, would let parts run on the CPU."""
        properties: dict[str, Any] = {
            "MAX_PROMPT_LEN": input_tokens,
            "MIN_RESPONSE_LEN": output_tokens,
            "NPUW_DEVICES": "CPU" if self._options.simulate else "NPU",
        }
        if self._options.simulate:
            properties["NPUW_ONLINE_PIPELINE"] = "NONE"
            properties["INFERENCE_PRECISION_HINT"] = _HINT[self._options.compute_precision]
        elif self._options.engine_cache is not None:
            # Not in the simulation: a blob that NPUW reads back forgets the precision of its CPU submodels.
            properties["CACHE_DIR"] = self._options.engine_cache
        return properties

    def generate(self, input_ids: Tokens, output_tokens: int) -> tuple[Tokens, list[int]]:
        """Generate greedily from one prompt ``[1, input]``; fewer tokens come where the K/V cache ends.

        Raises:
            BadInputError: more than one prompt, or one that is longer than reserved.
        """
        import openvino as ov
        import openvino_genai

        self._reserved.start(input_ids)
        config = openvino_genai.GenerationConfig(max_new_tokens=output_tokens, do_sample=False)
        ends = self._reserved.end_tokens
        if ends:
            # Up to the smallest number of tokens, those that end a sequence have probability 0.
            config.set_eos_token_id(ends[0])
            config.stop_token_ids = set(ends)
            config.min_new_tokens = output_tokens
        stamps: list[int] = []
        result = self._pipeline.generate(ov.Tensor(np.ascontiguousarray(input_ids)), config, make_stamper(stamps))
        return np.array(result.tokens, dtype=np.int64), stamps[: len(result.tokens[0])]

    def placement(self) -> Placement:
        """Return the one device that the pipeline was allowed: it fails where that cannot run a part."""
        return Placement("npu", "npuw-cpu" if self._options.simulate else "npu")

    def compute_precision(self) -> str:
        """Return fp16, which is all an NPU computes in; in the simulation what its CPU submodels were held to."""
        return self._options.compute_precision if self._options.simulate else "fp16"

    def threads(self) -> int:
        """Return 0: an NPU has no CPU threads."""
        return 0

    def attention_path(self) -> str:
        """Return the pipeline's name: it rewrites attention for static shapes itself."""
        return "NPUW static"

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load" of the last compilation in ns."""
        return {"load": self._load_ns}

    def close(self) -> None:
        """Free the pipeline."""
        self._pipeline = None
        self._bounds = (0, 0)


def only_graph(artifact: Artifact) -> Path:
    """Return the graph of an artifact, in a folder that holds nothing else for openvino-genai to read.

    Its pipelines open tokenizers, templates and configurations next to a graph, and take another pipeline for
    some of them; slmbench gives token ids, and none of its exporters writes such a file.

    Raises:
        CannotRunError: there is such a file.
    """
    graph = artifact.graph("model")
    if artifact.elsewhere is not None:
        return _linked(graph, artifact.folder / "graph")
    known = {graph.name, graph.with_suffix(".bin").name, GOLDEN_NAME, MANIFEST_NAME}
    for path in sorted(artifact.folder.iterdir()):
        if path.name not in known and not path.name.startswith("."):
            raise CannotRunError(f"{path}: openvino-genai would read it, and no exporter of slmbench's wrote it")
    return graph


def _linked(graph: Path, folder: Path) -> Path:
    """Return a link to a graph that the user brings, next to a link to its weights, in a folder of ours.

    Raises:
        CannotRunError: the links cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
        for path in (graph, graph.with_suffix(".bin")):
            link = folder / f"openvino_model{path.suffix}"
            if not link.is_symlink() or link.readlink() != path:
                link.unlink(missing_ok=True)
                link.symlink_to(path)
    except OSError as error:
        raise CannotRunError(f"{folder}: no link to {graph.name} can be made there: {error.strerror}") from error
    return folder / "openvino_model.xml"


def make_stamper(stamps: list[int], tokens: list[int] | None = None) -> Callable[[Any], Any]:
    """Return a streamer that notes when each token reached the host, and in ``tokens`` which it is."""
    import openvino_genai

    class Stamper(openvino_genai.StreamerBase):  # type: ignore[misc]  # the package has no types
        def write(self, token: int | list[int]) -> Any:
            now = perf_counter_ns()
            given = token if isinstance(token, list) else [token]
            stamps.extend([now] * len(given))
            if tokens is not None:
                tokens.extend(given)
            return openvino_genai.StreamingStatus.RUNNING

        def end(self) -> None:
            pass

    streamer: Callable[[Any], Any] = Stamper()
    return streamer
