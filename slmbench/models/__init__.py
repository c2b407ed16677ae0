"""What a model is, from its name to its files."""

__all__: tuple[str, ...] = ()
