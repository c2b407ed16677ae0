"""Exporters call this before they import a library that calls home."""

from slmbench.quiet import silence_telemetry

__all__ = ["silence_telemetry"]
