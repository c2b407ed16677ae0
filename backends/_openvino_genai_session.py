"""openvino-genai's own generation loop on the CPU or a GPU, with paged attention or with SDPA."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

import numpy as np

from slmbench.artifact import Artifact
from slmbench.backend import Placement, SessionOptions, Tokens
from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.quiet import silence_telemetry
from slmbench.terms import Device

from ._openvino_npu_genai import make_stamper
from ._openvino_session import PRECISION, device_properties
from ._static_openvino import executed_on

PAGED, SDPA = "paged", "SDPA"
_ATTENTION_BACKEND = {PAGED: "PA", SDPA: "SDPA"}
#: A prompt up to this length is read in one go; longer ones in parts, as the pipeline's scheduler does.
_MAX_BATCHED_TOKENS = 65536


class GenaiSession:
    """An LLM pipeline over token ids. Batch 1, greedy.

    The pipeline shows nothing of the models it compiles. Precision, threads and device are read back from a graph of
    one product that OpenVINO compiles with the very same properties; the pipeline is told one device by name, so it
    has no other to fall back to.
    """

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions, engine_name: str) -> None:
        """Compile the pipeline.

        Raises:
            CannotRunError: openvino-genai does not take the graph or a property.
        """
        silence_telemetry()
        import openvino_genai

        self._device, self._path = device, options.attention or PAGED
        self._eos = artifact.manifest.checkpoint.eos_token_ids
        properties = device_properties(options, engine_name)
        self._compiled = _one_product(engine_name, properties)
        self._bounds = (0, 0)
        extra: dict[str, Any] = {"ATTENTION_BACKEND": _ATTENTION_BACKEND[self._path]}
        if self._path == PAGED:
            scheduler = openvino_genai.SchedulerConfig()
            # A repeated prompt would be answered from the cache instead of being read.
            scheduler.enable_prefix_caching = False
            scheduler.max_num_batched_tokens = _MAX_BATCHED_TOKENS
            extra["scheduler_config"] = scheduler
        began = perf_counter_ns()
        try:
            self._pipeline: Any = openvino_genai.LLMPipeline(str(artifact.folder), engine_name, **properties, **extra)
        except RuntimeError as error:
            reason = one_line(str(error).strip().splitlines()[-1])
            raise CannotRunError(f"{artifact.folder}: openvino-genai does not compile it: {reason}") from error
        self._load_ns = perf_counter_ns() - began

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Remember the bounds; the pipeline keeps buffers of its own.

        Raises:
            BadInputError: more than one prompt at a time.
        """
        if batch != 1:
            raise BadInputError(f"openvino_genai stamps the tokens of 1 prompt at a time, {batch} are asked for")
        self._bounds = (input_tokens, output_tokens)

    def generate(self, input_ids: Tokens, output_tokens: int) -> tuple[Tokens, list[int]]:
        """Generate greedily from one prompt ``[1, input]``, ends of sequence suppressed.

        Raises:
            BadInputError: a shape beyond what was reserved.
        """
        import openvino as ov
        import openvino_genai

        if input_ids.shape[0] != 1 or input_ids.shape[1] > self._bounds[0]:
            raise BadInputError(
                f"prompts of shape {input_ids.shape} were given, 1 of {self._bounds[0]} tokens at most is reserved"
            )
        config = openvino_genai.GenerationConfig(max_new_tokens=output_tokens, do_sample=False)
        if self._eos:
            # Up to the smallest number of tokens, those that end a sequence have probability 0.
            config.set_eos_token_id(self._eos[0])
            config.stop_token_ids = set(self._eos)
            config.min_new_tokens = output_tokens
        else:
            config.set_eos_token_id(0)
            config.ignore_eos = True
        stamps: list[int] = []
        result = self._pipeline.generate(ov.Tensor(np.ascontiguousarray(input_ids)), config, make_stamper(stamps))
        return np.array(result.tokens, dtype=np.int64), stamps[: len(result.tokens[0])]

    def placement(self) -> Placement:
        """Return the one device that the pipeline was told."""
        return Placement(self._device, executed_on(self._compiled))

    def compute_precision(self) -> str:
        """Return what OpenVINO makes of the precision asked for, on this device."""
        name = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return str(PRECISION.get(name, name))

    def threads(self) -> int:
        """Return the threads that OpenVINO takes with these properties; 0 on a GPU."""
        return int(self._compiled.get_property("INFERENCE_NUM_THREADS")) if self._device == "cpu" else 0

    def attention_path(self) -> str:
        """Return "paged" or "SDPA", as the pipeline was told; it fails where it cannot."""
        return self._path

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load": the pipeline reads, transforms and compiles in one."""
        return {"load": self._load_ns}

    def close(self) -> None:
        """Free the pipeline."""
        self._pipeline = None


def _one_product(engine_name: str, properties: dict[str, Any]) -> Any:
    import openvino as ov
    from openvino import opset13 as ops

    left = ops.parameter([1, 8], np.float32)
    model = ov.Model([ops.matmul(left, ops.constant(np.eye(8, dtype=np.float32)), False, False)], [left])
    return ov.Core().compile_model(model, engine_name, properties)
