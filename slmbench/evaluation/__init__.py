"""How good is what it says? Divergence from the reference on real text."""

from __future__ import annotations
