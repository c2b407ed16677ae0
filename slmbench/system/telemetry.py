"""Keeps libraries from calling home, and from writing into what we print."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def silence_telemetry() -> None:
    """Switch off the telemetry of every library slmbench uses. Call it before the first of them is imported.

    OpenVINO and NNCF send events through the package ``openvino_telemetry`` on import and on use, and fall back
    to stubs of their own when it cannot be imported: so it cannot be, in this process and its children that call
    this function. The Hub client and transformers read an environment variable.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DISABLE_TELEMETRY"] = "1"
    if "openvino_telemetry" not in sys.modules:
        # None is Python's own way to say that a module must not be imported.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as said above


@contextlib.contextmanager
def output_is_ours() -> Iterator[None]:
    """Send to standard error what libraries print meanwhile, from Python or from native code: tokenizers' is Rust."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
