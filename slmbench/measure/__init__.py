"""Time stamps to metrics."""

__all__: tuple[str, ...] = ()
