"""Which extra of slmbench brings which package, and the text about one that is not installed."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version

from slmbench.errors import one_line, root_cause

#: The smallest extra that brings each distribution, as pyproject.toml has it (a test compares the two).
EXTRAS = {
    "accelerate": "dequantize",
    "bitsandbytes": "dequantize",
    "compressed-tensors": "dequantize",
    "cryptography": "fleet",
    "ctranslate2": "ct2",
    "distributed": "fleet",
    "gguf": "llama",
    "jsonschema": "tasks",
    "llama-cpp-python": "llama",
    "nncf": "graphs",
    "nvidia-ml-py": "cuda",
    "onnx": "graphs",
    "onnx-ir": "graphs",
    "onnxruntime": "cpu",
    "onnxruntime-genai": "cpu",
    "onnxruntime-gpu": "cuda",
    "onnxruntime-qnn": "qnn",
    "onnxscript": "export",
    "openvino": "cpu",
    "openvino-genai": "cpu",
    "optimum-intel": "optimum",
    "rouge-score": "tasks",
    "pillow": "pictures",
    "ruptures": "history",
    "sacrebleu": "tasks",
    "safetensors": "export",
    "sentencepiece": "export",
    "torch": "export",
    "transformers": "export",
}
#: GB on disk of the extras that bring torch; on Linux its plain wheel brings CUDA as well.
_LARGE_GB = dict.fromkeys(("dequantize", "export", "optimum"), 6.0 if sys.platform == "linux" else 1.5)
#: Modules whose distribution has another name.
_DISTRIBUTIONS = {
    "dask": "distributed",
    "llama_cpp": "llama-cpp-python",
    "optimum": "optimum-intel",
    "PIL": "pillow",
    "pynvml": "nvidia-ml-py",
}


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution that is installed here, else None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def install_command(name: str) -> str:
    """Return what to type to get a distribution or a module ("onnx_ir", "optimum.intel")."""
    extra = EXTRAS.get(_distribution(name))
    return f"pip install {_distribution(name)}" if extra is None else install_itself(f"[{extra}]")


def install_itself(extra: str = "", *, number: str = "", pip: str = "pip") -> str:
    """Return what to type to install slmbench with an extra ("[cpu]"), in the way that it is installed here.

    From an index it can be a version ("0.2.0").

    The folder it came from is not named: this text gets into results that people share.
    """
    if not _from_folder():
        return f"{pip} install 'slmbench{extra}{number and '=='}{number}'"
    return f"{pip} install '.{extra}' in the folder of slmbench"


@cache
def _from_folder() -> bool:
    """Return whether pip installed slmbench from a folder, as in a clone, not from an index or a wheel (PEP 610)."""
    try:
        source = json.loads(distribution("slmbench").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return False
    return "dir_info" in source


def not_installed(name: str) -> str:
    """Return that a distribution or module is not installed."""
    return f"{_distribution(name)} is not installed"


def missing(name: str) -> str:
    """Return that a distribution or module is not installed, what to type to get it, and the room that this takes."""
    return f"{not_installed(name)}: {install_command(name)}{_too_large(name)}"


def _too_large(name: str) -> str:
    """Return that the disk has no room for what brings a distribution; empty where it has.

    Again without a folder: refusals get into results.
    """
    needed = _LARGE_GB.get(EXTRAS.get(_distribution(name), ""), 0.0)
    free = shutil.disk_usage(sysconfig.get_path("purelib")).free / 1e9
    return f" (some {needed:g} GB; the disk of this Python has {free:.1f} GB free)" if free < needed else ""


def needed(error: ImportError, purpose: str) -> str:
    """Return that a module is needed for a purpose ("to export to ONNX"), and how to get it or why it does not load."""
    cause = root_cause(error)
    name = cause.name if isinstance(cause, ImportError) else None
    if isinstance(cause, ModuleNotFoundError) and name:
        return f"{_distribution(name)} is needed {purpose}: {install_command(name)}"
    what = _distribution(name or error.name or "a library")
    return f"{what} is needed {purpose} and cannot be imported: {one_line(str(cause))[:200]}"


def _distribution(name: str) -> str:
    top = name.partition(".")[0]
    return _DISTRIBUTIONS.get(top, top.replace("_", "-"))
