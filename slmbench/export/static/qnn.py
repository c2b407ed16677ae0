"""Static ONNX graphs for Qualcomm's HTP: fp16 as they are, int8 weights with 16-bit activations, context binaries.

fp16 needs no other graph: the provider computes fp32 tensors in fp16. int8 is QDQ with QUInt16 activations and
QUInt8 weights (signed weights leave BART's normalisation unsupported), its ranges taken from greedy generations
over seeded prompts by the fp32 graph; what was used is in ``calibration.json``. With a chip named, the graphs
are compiled for it here, offline, and the artifact holds context binaries.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slmbench.backend import SessionOptions
from slmbench.errors import CannotRunError
from slmbench.export.routes import Progress
from slmbench.models import static_layout as layout
from slmbench.models.artifact import ArtifactSpec, Role
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.qnn_socs import Soc, target_soc

CALIBRATION_NAME = "calibration.json"
CALIBRATION_SEED = 20250124
CALIBRATION_PROMPTS = 4
#: Decoder steps taken into account of each generation: the first ones and evenly spaced later ones.
CALIBRATION_STEPS = 8

Feeds = dict[Role, list[dict[str, Any]]]


def check(spec: ArtifactSpec) -> None:
    """Refuse what there is no HTP graph of.

    Raises:
        BadInputError: not a QNN target, or an unknown chip.
        CannotRunError: a format or precision that the HTP does not have.
    """
    target_soc(spec.target)
    if spec.format != "onnx":
        raise CannotRunError(f"the target {spec.target} takes ONNX graphs, not {spec.format}")
    if spec.weight_precision not in ("fp16", "int8"):
        raise CannotRunError(f"the HTP has no {spec.weight_precision} here: ask for fp16, or int8 (16-bit activations)")


def finish(checkpoint: Checkpoint, spec: ArtifactSpec, files: dict[Role, Path], progress: Progress) -> dict[Role, Path]:
    """Quantise and compile the fp32 graphs ``files`` as the spec's target asks; returns where the graphs are now.

    Raises:
        CannotRunError: ONNX Runtime, or for a named chip its QNN provider, is not installed or refuses a graph.
    """
    if layout.is_quantised(spec.target, spec.weight_precision):
        progress("calibrating")
        files = _quantised(checkpoint, spec, files, progress)
    soc = target_soc(spec.target)
    if soc is not None:
        for role, path in files.items():
            progress(f"compiling the {role} graph for {soc.product}")
            files[role] = _compiled(path, soc)
    return files


def _quantised(
    checkpoint: Checkpoint, spec: ArtifactSpec, files: dict[Role, Path], progress: Progress
) -> dict[Role, Path]:
    from onnxruntime.quantization import QuantType, quantize
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model

    feeds, prompts = calibration_feeds(checkpoint, spec, files)
    written: dict[Role, Path] = {}
    for role, path in files.items():
        progress(f"quantising the {role} graph")
        folded = _folded(path)
        prepared = path.with_name(f"{role}.prepared.onnx")
        external = {"save_as_external_data": True, "all_tensors_to_one_file": True}
        if not qnn_preprocess_model(folded, prepared, external_data_location=f"{prepared.name}.data", **external):
            prepared = folded
        config = get_qnn_qdq_config(
            prepared,
            _CalibrationReader(iter(feeds[role])),
            activation_type=QuantType.QUInt16,
            weight_type=QuantType.QUInt8,
        )
        written[role] = path.with_name(f"{role}.qdq.onnx")
        quantize(prepared, written[role], config)
        for used in {path, folded, prepared}:
            _remove(used)
    record = {
        "seed": CALIBRATION_SEED,
        "prompts": prompts,
        "steps_per_prompt": CALIBRATION_STEPS,
        "method": "MinMax",
        "activations": "QUInt16",
        "weights": "QUInt8",
    }
    (next(iter(written.values())).parent / CALIBRATION_NAME).write_text(json.dumps(record, indent=1) + "\n")
    return written


class _CalibrationReader:
    """What ONNX Runtime's calibration pulls its inputs from."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        """Return the next inputs, None after the last."""
        return next(self._feeds, None)


def calibration_feeds(
    checkpoint: Checkpoint, spec: ArtifactSpec, files: dict[Role, Path]
) -> tuple[Feeds, list[list[int]]]:
    """Return what the graphs read while they answer seeded prompts greedily, and these prompts.

    Prompts are uniform random tokens, the longest of length N, the others shorter, so that padding is seen too.
    """
    # Backends are found by name at run time, as everywhere: export must not need an engine to be imported.
    loop = importlib.import_module("slmbench.backends.onnxruntime.static_session")
    session = loop.RecordingSession(checkpoint, spec, files, "cpu", SessionOptions())
    draw = np.random.default_rng(CALIBRATION_SEED)
    bound, steps = spec.input_tokens or 1, spec.output_tokens or 1
    kept = set(np.unique(np.linspace(0, steps - 1, CALIBRATION_STEPS).astype(int)).tolist())
    prompts: list[list[int]] = []
    feeds: Feeds = {role: [] for role in files}
    for number in range(CALIBRATION_PROMPTS):
        length = max(1, bound * (CALIBRATION_PROMPTS - number) // CALIBRATION_PROMPTS)
        prompt = draw.integers(0, checkpoint.geometry.vocab_size, size=(1, length))
        prompts.append(prompt[0].tolist())
        for role, inputs in session.record(prompt, steps, kept):
            feeds[role].append(inputs)
    session.close()
    return feeds, prompts


def _folded(path: Path) -> Path:
    """Fold constants, transposed weights above all: a quantiser looks for weights among the initialisers."""
    import onnxruntime as ort

    folded = path.with_name(f"{path.stem}.folded.onnx")
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(folded)
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{folded.name}.data")
    ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return folded


def _compiled(path: Path, soc: Soc) -> Path:
    """Compile one graph into a context binary for the chip, with the emulator's compiler, and remove the graph."""
    loop = importlib.import_module("slmbench.backends.onnxruntime.qnn")
    written = path.with_name(f"{path.name.split('.')[0]}.{soc.name}.onnx")
    loop.compile_context(path, written, soc)
    if not written.exists():
        raise CannotRunError(f"{path.name}: ONNX Runtime wrote no context binary for {soc.product}")
    _remove(path)
    return written


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
