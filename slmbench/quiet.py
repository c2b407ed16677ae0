"""Keeps libraries from calling home."""

from __future__ import annotations

import os
import sys


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
