"""How fast a small language model really is on your device."""

from slmbench._version import __version__

__all__ = ["__version__"]
