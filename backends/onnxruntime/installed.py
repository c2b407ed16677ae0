"""Which distribution owns the module ``onnxruntime``, and what its CPU kernels compute in."""

from __future__ import annotations

import os

from slmbench.backend import SessionOptions
from slmbench.errors import CannotRunError
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import installed_version, missing
from slmbench.terms import ComputePrecision, Precision

#: They install the same folder: the last one installed wins, and pip does not notice.
_OWNERS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-training",
    "onnxruntime-silicon",
)

#: With it a session's options are dropped, whether the model has some of its own or not.
_OBEYS_MODELS = "ORT_LOAD_CONFIG_FROM_MODEL"


def owners() -> list[str]:
    """Return the installed distributions that own the module ``onnxruntime``."""
    return [name for name in _OWNERS if installed_version(name) is not None]


def check_owner() -> None:
    """Refuse to run when it cannot be known which build of ONNX Runtime would, or with whose settings.

    Raises:
        CannotRunError: none, or two distributions own the module; or the environment lets models set it up.
    """
    if os.environ.get(_OBEYS_MODELS) == "1":
        raise CannotRunError(
            f"{_OBEYS_MODELS}=1: ONNX Runtime takes threads, optimisation and fallbacks from the model instead of from "
            "slmbench, and does not say so; unset it"
        )
    found = owners()
    if not found:
        raise CannotRunError(missing("onnxruntime"))
    if len(found) > 1:
        raise CannotRunError(
            f"{' and '.join(found)} are both installed and own the same module 'onnxruntime', so it is unknown which "
            f"one runs: pip uninstall -y {' '.join(found)}, then install the one you want"
        )


def cpu_compute(weights: Precision) -> ComputePrecision:
    """Return what a product is computed in on the CPU.

    Quantised weights are ``MatMulNBits`` at accuracy level 4, by our builder as by onnxruntime-genai's: activations are
    quantised to 8 bits.
    """
    return "int8" if weights in ("int8", "int4") else "fp32"


def cpu_refusal(checkpoint: Checkpoint, weights: Precision, options: SessionOptions) -> str | None:
    """Return why the CPU does not compute what the options ask for, or None."""
    only = (checkpoint.given.compute if checkpoint.given else None) or cpu_compute(weights)
    if only == "fp16":
        return "ONNX Runtime's CPU kernels do not compute in fp16, which the graph asks for"
    if options.compute_precision == only:
        return None
    return f"ONNX Runtime computes {weights} weights in {only} on CPUs, not in {options.compute_precision}"
