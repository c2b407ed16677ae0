"""The stand-in backend and its artifact."""

from __future__ import annotations

from standin_fixtures import artifact, plugin

__all__ = ["artifact", "plugin"]
