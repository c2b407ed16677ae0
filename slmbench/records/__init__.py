"""What is on disk."""

__all__: tuple[str, ...] = ()
