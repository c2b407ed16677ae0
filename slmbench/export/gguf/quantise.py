"""llama.cpp's own quantiser, through its library: from a GGUF file in F32 to one of fewer bits a weight.

It runs in a process of its own: llama.cpp has one log for a whole process, and where the library was compiled for
another CPU it dies of SIGILL.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError, one_line
from slmbench.models.gguf_layout import FILE_TYPES, Mixture
from slmbench.system.extras import missing
from slmbench.system.processes import child_environment, follow_host

_ERROR = 4


def quantise(source: Path, target: Path, mixture: Mixture) -> None:
    """Write ``target``: the tensors of ``source`` in the types that llama.cpp chooses for ``mixture``.

    No importance matrix is used: what is made depends on the weights alone.

    Raises:
        CannotRunError: llama-cpp-python is not installed, or the quantiser fails; the text says why.
    """
    # -P: a folder named slmbench where the user stands is not the package.
    command = [sys.executable, "-P", "-m", __name__, str(source), str(target), str(mixture.number)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=child_environment()
    )
    if done.returncode == 0 and target.is_file():
        return
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    reason = one_line(lines[-1])[:300] if lines else f"it ended with code {done.returncode}"
    if done.returncode == -signal.SIGILL:
        reason = "it died of SIGILL: llama.cpp was compiled for another CPU"
    raise CannotRunError(f"llama.cpp's quantiser makes no {mixture.name}: {reason}")


def _quantise_here(source: Path, target: Path, number: int) -> str | None:
    """Quantise in this process; return why that failed, or None."""
    try:
        import llama_cpp
    except ModuleNotFoundError:
        return missing("llama_cpp")
    except Exception as error:  # it loads a shared library, and raises RuntimeError and others
        return f"llama-cpp-python cannot be imported: {one_line(str(error))}"
    engine: Any = llama_cpp
    errors: list[str] = []

    def keep_errors(level: int, text: bytes, _: Any) -> None:
        if level == _ERROR:
            errors.append(text.decode("utf-8", "replace"))

    callback = engine.llama_log_callback(keep_errors)
    engine.llama_log_set(callback, ctypes.c_void_p(0))
    engine.llama_backend_init()
    params = engine.llama_model_quantize_default_params()
    params.ftype = number
    code = engine.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if not code:
        return None
    return errors[0] if errors else f"llama_model_quantize gave {code} for {FILE_TYPES.get(number, number)}"


def _main() -> None:
    follow_host()
    source, target, number = sys.argv[1:]
    reason = _quantise_here(Path(source), Path(target), int(number))
    if reason is not None:
        sys.exit(one_line(reason))


if __name__ == "__main__":
    _main()
