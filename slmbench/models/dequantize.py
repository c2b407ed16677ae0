"""Quantised weights to full precision: once, on request, by transformers, in a process of its own.

``python -m slmbench.models.dequantize FROM TO METHOD FAMILY`` is that process; :func:`dequantized` starts it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from slmbench.errors import ERROR_PREFIX, BadInputError, CannotRunError, SlmbenchError, one_line
from slmbench.models.converted import converted
from slmbench.models.safetensors import weight_files
from slmbench.system.extras import install_command, installed_version
from slmbench.system.processes import follow_host, go_first
from slmbench.system.telemetry import silence_telemetry
from slmbench.terms import Family

#: Methods whose weights transformers turns into full precision on a CPU: its class of settings, what to ask of it, and
#: the packages that it needs for that. Each was tried (tests/models/test_dequantize.py).
_METHODS: Mapping[str, tuple[str, dict[str, bool], tuple[str, ...]]] = {
    "fp8": ("FineGrainedFP8Config", {"dequantize": True}, ("accelerate",)),
    "compressed-tensors": ("CompressedTensorsConfig", {"run_compressed": False}, ("compressed-tensors",)),
    "bitsandbytes": ("", {}, ("accelerate", "bitsandbytes")),
}


def can_dequantize(method: str) -> bool:
    """Return whether transformers turns weights that were quantised this way into full precision."""
    return method in _METHODS


def dequantized(folder: Path, method: str, family: Family, *, trust_remote_code: bool) -> tuple[Path, str]:
    """Return a folder in the cache with the same checkpoint in full precision, and who made it from what.

    Raises:
        BadInputError: a file is missing, or transformers does not take the checkpoint.
        CannotRunError: a package is missing.
    """
    for name in ("torch", "transformers", *_METHODS[method][2]):
        if installed_version(name) is None:
            raise CannotRunError(f"{folder}: {name} is needed to dequantize {method} weights: {install_command(name)}")
    versions = ", ".join(f"{name} {installed_version(name)}" for name in ("transformers", *_METHODS[method][2]))
    arguments = [method, family, *(["trusting"] if trust_remote_code else [])]
    target, _ = converted(folder, weight_files(folder), __name__, arguments, made_by=versions)
    return target, f"{method}, by {versions}"


def _write(source: Path, target: Path, method: str, family: Family, *, trust_remote_code: bool) -> None:
    """Load the quantised network, and save one without any trace of that."""
    import torch
    import transformers

    from slmbench.models.network import load_folder

    silence_telemetry()
    transformers.utils.logging.disable_progress_bar()
    name, asked, _ = _METHODS[method]
    settings = getattr(transformers, name)(**asked) if name else None
    model, missing = load_folder(
        source, family, dtype=torch.float32, trust_remote_code=trust_remote_code, quantization=settings
    )
    if missing:
        raise BadInputError(f"{source}: {len(missing)} parameters are not in its files ({min(missing)[:80]})")
    if method == "bitsandbytes":
        model = model.dequantize(torch.float32)
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    tensors = {key: value.to(torch.float32) for key, value in model.state_dict().items()}
    with torch.device("meta"):
        plain = type(model)(config)
    wanted = plain.state_dict()
    plain.load_state_dict({key: value for key, value in tensors.items() if key in wanted}, assign=True)
    plain.tie_weights()
    plain.config.dtype = torch.float32
    plain.save_pretrained(target)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return one_line(lines[0])[:200] if lines else type(error).__name__


def _main(source: str, target: str, method: str, family: str, *more: str) -> Any:
    follow_host()
    go_first()
    try:
        _write(Path(source), Path(target), method, cast(Family, family), trust_remote_code=bool(more))
    except SlmbenchError as error:
        return f"{ERROR_PREFIX}{error}"
    except Exception as error:  # transformers raises whatever a checkpoint makes of it
        return f"{ERROR_PREFIX}transformers cannot dequantize its {method} weights: {_first_line(error)}"
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
