"""Which distribution owns the module ``onnxruntime``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from slmbench.errors import CannotRunError

#: They install the same folder: the last one installed wins, and pip does not notice.
_OWNERS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-training",
    "onnxruntime-silicon",
)


def owners() -> list[str]:
    """Return the installed distributions that own the module ``onnxruntime``."""
    return [name for name in _OWNERS if _version(name) is not None]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_owner() -> None:
    """Refuse to run when it cannot be known which build of ONNX Runtime would.

    Raises:
        CannotRunError: none, or two distributions own the module.
    """
    found = owners()
    if not found:
        raise CannotRunError("onnxruntime is not installed: pip install 'slmbench[cpu]'")
    if len(found) > 1:
        raise CannotRunError(
            f"{' and '.join(found)} are both installed and own the same module 'onnxruntime', so it is unknown which "
            f"one runs: pip uninstall -y {' '.join(found)}, then install the one you want"
        )
