"""The stand-in backend, its artifact, and cases of it."""

from __future__ import annotations

from standin_fixtures import artifact, installed, planned, plugin

__all__ = ["artifact", "installed", "planned", "plugin"]
