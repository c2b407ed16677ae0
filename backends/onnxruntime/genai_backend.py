"""onnxruntime-genai: ONNX Runtime's own generation loop, decoder-only, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from slmbench.backend import Ability, DeviceStatus, Placement, Session, SessionOptions, Tokens
from slmbench.errors import CannotRunError, first_error_line, one_line
from slmbench.models.artifact import Artifact, ArtifactSpec, given_specs
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.given_record import NO_SHARED_BUFFER
from slmbench.system.telemetry import silence_telemetry
from slmbench.terms import ComputePrecision, Device, Exporter, Precision

from ..common.cpu_device import cpu_status, default_threads, require
from ..common.reserved import Reserved
from .genai_config import context_length
from .installed import check_owner, cpu_compute, cpu_refusal, owners

_PRECISION = {np.dtype(np.float32): "fp32", np.dtype(np.float16): "fp16"}


class OnnxRuntimeGenaiBackend:
    """Drives onnxruntime-genai."""

    name = "onnxruntime_genai"
    engine = "onnxruntime"
    options_type: type[SessionOptions] = SessionOptions
    attention_paths: tuple[str, ...] = ()

    def __init__(self) -> None:
        # Builds for other devices are distributions of other names that own the same module.
        self.distributions: tuple[str, ...] = ("onnxruntime-genai", *(owners() or ["onnxruntime"]))

    def devices(self) -> Sequence[DeviceStatus]:
        """Return the CPU."""
        return [cpu_status("CPU", "onnxruntime-genai")]

    def artifact_specs(self, checkpoint: Checkpoint, precision: Precision, device: Device) -> Sequence[ArtifactSpec]:
        """Return the user's folder, or the builder's graph, ours and the traced network, of decoder-only models."""
        if checkpoint.given is not None:
            return given_specs(checkpoint, "ort_genai") if device == "cpu" else []
        if checkpoint.family != "decoder-only" or device != "cpu":
            return []
        exporters: tuple[Exporter, ...] = ("genai", "slmbench", "generic")
        return [ArtifactSpec(format="onnx", weight_precision=precision, exporter=one) for one in exporters]

    def refusal(
        self, checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions, device: Device
    ) -> str | None:
        """Return why this combination cannot run, or None."""
        if checkpoint.family != "decoder-only":
            return "onnxruntime-genai generates with decoder-only models; the onnxruntime backend runs both families"
        if device != "cpu":
            return f"slmbench runs onnxruntime-genai on the CPU only, not on {device}"
        if spec.format != "onnx" or spec.layout != "dynamic":
            return f"onnxruntime-genai takes dynamic ONNX graphs, not {spec.label()}"
        if checkpoint.given is not None and NO_SHARED_BUFFER in checkpoint.given.flags:
            return "slmbench runs onnxruntime-genai with shared K/V buffers, which this graph does not have"
        return cpu_refusal(checkpoint, spec.weight_precision, options)

    def shipped_refusal(self, spec: ArtifactSpec, device: Device) -> str | None:
        """Return None: what onnxruntime-genai and the folder's config choose can always be left."""
        return None

    def default_compute(self, weights: Precision, device: Device, *, simulate: bool) -> ComputePrecision:
        """Return what ONNX Runtime's kernels on the CPU compute in."""
        return cpu_compute(weights)

    def picture_refusal(self, checkpoint: Checkpoint) -> str | None:
        """Return why, and what takes pictures."""
        return (
            "what onnxruntime-genai's builder makes of a checkpoint here is its text alone; "
            "use --backend openvino, onnxruntime or torch"
        )

    def abilities(self, checkpoint: Checkpoint, spec: ArtifactSpec) -> frozenset[Ability]:
        """Return that answers may end where the model ends them."""
        return frozenset(("ends",))

    def open(self, artifact: Artifact, device: Device, options: SessionOptions) -> Session:
        """Load the model.

        Raises:
            CannotRunError: a package is missing, the combination is refused, or the model is.
        """
        check_owner()
        manifest = artifact.manifest
        reason = self.refusal(manifest.checkpoint, manifest.spec, options, device)
        if reason is not None:
            raise CannotRunError(reason)
        return OnnxRuntimeGenaiSession(artifact, device, options)


class OnnxRuntimeGenaiSession:
    """One model and one generator, rewound before each prompt. Not thread-safe.

    A generator keeps its own tokens: a step that is fed what it chose itself is one call; any other token takes a
    rewind first.
    """

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions) -> None:
        """Load the model.

        Raises:
            CannotRunError: the package is missing, the artifact has no fit config for it, or the model is refused.
        """
        silence_telemetry()
        require("onnxruntime-genai")
        try:
            import onnxruntime_genai
        except ImportError as error:
            raise CannotRunError(f"onnxruntime-genai cannot be imported: {one_line(str(error))}") from error
        self._limit = context_length(artifact)
        self._engine: Any = onnxruntime_genai
        checkpoint = artifact.manifest.checkpoint
        self._device, self._asked = device, options
        self._threads = options.threads or default_threads()
        self._reserved = Reserved(checkpoint)
        given = checkpoint.given
        self._compute = (given.compute if given else None) or cpu_compute(artifact.manifest.spec.weight_precision)
        self._generator: Any = None
        self._last = np.zeros(0, dtype=np.int64)
        process = psutil.Process()
        began = perf_counter_ns()
        try:
            config = onnxruntime_genai.Config(str(artifact.home))
            config.overlay(json.dumps(self._overlay(checkpoint)))
            before = process.num_threads()
            self._model: Any = onnxruntime_genai.Model(config)
        except Exception as error:  # the binding raises RuntimeError and its kin
            raise CannotRunError(
                f"{artifact.graph('model')}: onnxruntime-genai does not load it: {first_error_line(error)[:300]}"
            ) from error
        self._load_ns = perf_counter_ns() - began
        if options.settings == "shipped" and options.threads is None:
            # One caller, and those of the pool that ONNX Runtime made of its own accord.
            self._threads = process.num_threads() - before + 1

    def _overlay(self, checkpoint: Checkpoint) -> dict[str, Any]:
        model: dict[str, Any] = {"pad_token_id": checkpoint.pad_token_id}
        if self._asked.settings == "fair":
            model["decoder"] = {"session_options": {"intra_op_num_threads": self._threads, "inter_op_num_threads": 1}}
        elif self._asked.threads is not None:
            model["decoder"] = {"session_options": {"intra_op_num_threads": self._threads}}
        if checkpoint.eos_token_ids:
            model["eos_token_id"] = list(checkpoint.eos_token_ids)
        return {"model": model}

    def reserve(self, batch: int, input_tokens: int, output_tokens: int) -> None:
        """Make the generator, whose K/V buffers have the full length.

        Raises:
            BadInputError: more tokens than the model has positions for.
        """
        total = input_tokens + output_tokens
        self._reserved.check_positions(total, self._limit)
        parameters = self._engine.GeneratorParams(self._model)
        # Ends of sequence are suppressed below the least length; where the checkpoint names none, those of the
        # artifact's own config may come.
        least = total if self._reserved.end_tokens else 0
        parameters.set_search_options(
            batch_size=batch,
            max_length=total,
            min_length=least,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            past_present_share_buffer=True,
        )
        self._generator = self._engine.Generator(self._model, parameters)
        self._reserved.take(batch, input_tokens, output_tokens)

    def start(self, input_ids: Tokens, attention_mask: Tokens | None = None) -> Tokens:
        """Prefill the prompts ``[B, S]``.

        Raises:
            BadInputError: a shape beyond what is reserved.
            CannotRunError: prompts of unequal length.
        """
        self._reserved.start(input_ids)
        if attention_mask is not None and not attention_mask.all():
            raise CannotRunError(
                "onnxruntime-genai takes no attention mask: prompts of one batch must be equally long; "
                "the onnxruntime backend takes unequal ones"
            )
        self._generator.rewind_to(0)
        self._generator.append_tokens(input_ids.astype(np.int32))
        return self._next()

    def step(self, tokens: Tokens) -> Tokens:
        """Feed ``[B]`` tokens, return the next.

        Raises:
            BadInputError: a step beyond what is reserved.
        """
        if not np.array_equal(tokens, self._last):
            self._generator.rewind_to(self._generator.token_count() - 1)
            self._generator.append_tokens(tokens.astype(np.int32)[:, None])
        return self._next()

    def _next(self) -> Tokens:
        self._reserved.token()
        self._generator.generate_next_token()
        self._last = self._generator.get_next_tokens().astype(np.int64)
        return self._last

    def logits(self) -> NDArray[np.float32]:
        """Return the logits behind the tokens given last, ``[B, V]``."""
        return np.asarray(self._generator.get_output("logits")[:, -1], np.float32)

    def phases_ns(self) -> dict[str, int]:
        """Return nothing: the engine's prefill is one call."""
        return {}

    def placement(self) -> Placement:
        """Return the model's device, as the engine reports it; it reports no nodes."""
        return Placement(self._device, str(self._model.device_type).lower())

    def compute_precision(self) -> str:
        """Return int8 where products quantise their input (not reported; both builders write it so), else the
        type of the K/V that the last inference wrote.
        """
        if self._compute != "fp32":
            return self._compute
        found = self._generator.get_output("present.0.key").dtype
        return _PRECISION.get(found, str(found))

    def threads(self) -> int:
        """Return the threads that were set, or with shipped settings started: the engine reports none."""
        return self._threads

    def attention_path(self) -> str:
        """Return "GroupQueryAttention": shared K/V buffers, which are asked for, need that operator."""
        return "GroupQueryAttention"

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load": reading, optimising and prepacking are one call."""
        return {"load": self._load_ns}

    def close(self) -> None:
        """Free the generator, then the model."""
        self._generator = None
        self.__dict__.clear()
