"""Static layouts, for NPUs."""

__all__: tuple[str, ...] = ()
