"""The community's ONNX route: the model builder that comes with onnxruntime-genai (decoder-only).

The builder runs in a process of its own, offline: it puts its own folders on the import path and prints freely. Of
its options one is set that its defaults leave off, ``prune_lm_head``: logits of the last position only, and one is off
that they set, ``windowed_kv_cache``.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

from slmbench.errors import CannotRunError, ExporterError, one_line
from slmbench.export.community import genai_refusal
from slmbench.export.recipes import genai_options
from slmbench.export.routes import Exported, Progress
from slmbench.models import catalog
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.cost_model import known_decode_weights
from slmbench.system.extras import installed_version, needed
from slmbench.system.files import read_regular
from slmbench.system.telemetry import silence_telemetry

ATTENTION = "GroupQueryAttention"
#: Bits a weight, a float32 scale for every 32 included.
_BITS = {"fp32": 32.0, "int4": 5.0}
#: As Phi-3.5-mini and Phi-4-mini have them ("su" is an older name): 41 to 47 of 47 golden tokens come out wrong.
_WRONG_ROTARY = ("longrope", "su")
#: The first version that was seen to keep the windows of single layers.
_KEEPS_WINDOWS = "0.18"
#: What is kept of the builder's output; the rest are tokenizer files.
_KEPT = ("model.onnx", "model.onnx.data", "genai_config.json")


def refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    """Return why this route cannot write the artifact, or None."""
    if (unknown := genai_refusal(checkpoint.architecture)) is not None:
        return unknown
    if (dropped := _dropped_window(checkpoint)) is not None:
        return (
            f"onnxruntime-genai's builder drops the attention window of {dropped} tokens: "
            "longer texts would get wrong tokens"
        )
    if (kind := _rotary_kind(checkpoint)) in _WRONG_ROTARY:
        return (
            f"onnxruntime-genai's builder gets rotary positions of the kind '{kind}' wrong: nearly every token differs"
        )
    if spec.weight_precision not in _BITS:
        return f"onnxruntime-genai's builder writes {', '.join(_BITS)} for CPUs here, not {spec.weight_precision}"
    return None


def _dropped_window(checkpoint: Checkpoint) -> int | None:
    """Return the window that the builder leaves out, or None: it reads which layers have one, not that all have.

    Older builders knew it for some architectures alone, and a proof of short prompts does not show it.
    """
    limit = checkpoint.geometry.max_total_tokens
    windows = [
        None if limit is not None and one is not None and one >= limit else one for one in checkpoint.geometry.windows
    ]
    found = [one for one in windows if one is not None]
    installed = installed_version("onnxruntime-genai")
    is_new = installed is None or Version(installed) >= Version(_KEEPS_WINDOWS)
    return min(found) if found and not (is_new and None in windows) else None


def _rotary_kind(checkpoint: Checkpoint) -> str | None:
    """Return what config.json calls the kind of rotary positions; None where nothing is said, or nothing is here."""
    config: Any = {}
    if checkpoint.source == "catalog":
        config = catalog.get(checkpoint.name).config
    elif checkpoint.path is not None:
        config = json.loads(read_regular(checkpoint.path / "config.json"))
    rotary = config.get("rope_parameters") or config.get("rope_scaling")
    return rotary.get("rope_type") or rotary.get("type") if isinstance(rotary, dict) else None


def write(checkpoint: Checkpoint, spec: ArtifactSpec, folder: Path, progress: Progress) -> Exported:
    """Write ``model.onnx`` with its weights next to it and ``genai_config.json``.

    Raises:
        CannotRunError: a library is missing, or the builder is killed.
        ExporterError: the builder fails; the text ends with its last line.
    """
    silence_telemetry()
    try:
        import onnxruntime_genai  # noqa: F401 (is it installed?)
        import transformers  # noqa: F401 (is it installed?)
    except ImportError as error:
        raise CannotRunError(needed(error, "for onnxruntime-genai's builder")) from error
    with tempfile.TemporaryDirectory(prefix="slmbench-genai-") as work:
        whole = checkpoint.has_tokenizer and not checkpoint.is_part
        source = checkpoint.path if whole else None
        if source is None:
            progress("writing the checkpoint for the builder")
            source = _save_checkpoint(checkpoint, Path(work) / "checkpoint")
        progress(f"running onnxruntime-genai's builder in {spec.weight_precision}")
        built = Path(work) / "built"
        options = genai_options(spec.recipe) if spec.recipe else {}
        _build(source, built, Path(work) / "cache", spec.weight_precision, options)
        for name in _KEPT:
            if (built / name).is_file():
                # Both may lie on different disks.
                shutil.move(built / name, folder / name)
    # How many bits a weight has follows from the options; the file is counted, what a step reads of it is not known.
    bytes_read = None if options else known_decode_weights(checkpoint.geometry, _BITS[spec.weight_precision] / 8)
    return Exported({"model": "model.onnx"}, ATTENTION, None, bytes_read, options)


def _save_checkpoint(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write the checkpoint as a Hugging Face folder, with a tokenizer of bytes: the builder insists on one."""
    from slmbench.export.torch_model import load_model

    model: Any = load_model(checkpoint)
    model.save_pretrained(folder)
    del model
    gc.collect()
    _byte_tokenizer().save_pretrained(folder)
    return folder


def _byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _build(source: Path, target: Path, cache: Path, precision: str, options: Mapping[str, str]) -> None:
    command = [sys.executable, "-P", "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(target)]
    command += ["-p", precision, "-e", "cpu", "-c", str(cache)]
    # "hf_token=false": it would look for the user's token otherwise.
    # "hf_remote=false": older builders run a checkpoint's own code by default.
    # "windowed_kv_cache=false": K/V buffers are as long for layers with a window as for the others.
    command += ["--extra_options", "prune_lm_head=true", "hf_token=false", "hf_remote=false", "windowed_kv_cache=false"]
    for key, value in options.items():
        # Older builders know the longer name alone; 0.18 silently ignores it, whatever its help says.
        command += [f"{key}={value}", f"{key.removeprefix('int4_')}={value}"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    # python -m puts the current folder on the import path: let it hold no Python of anyone's.
    done = subprocess.run(
        command,
        cwd=target.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0 or not (target / "model.onnx").is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        # Killed by a signal: for want of memory, or by a person. It may work the next time.
        kind = ExporterError if done.returncode >= 0 else CannotRunError
        raise kind(f"onnxruntime-genai's builder failed with {done.returncode}: {one_line(lines[-1])[:300]}")
