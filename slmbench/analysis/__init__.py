"""What the samples say."""

__all__: tuple[str, ...] = ()
