"""Exporters call this before they import a library that calls home."""

from slmbench.system.telemetry import silence_telemetry

__all__ = ["silence_telemetry"]
