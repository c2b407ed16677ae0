"""Backends, one module an engine."""

__all__: tuple[str, ...] = ()
