"""llama.cpp."""

__all__: tuple[str, ...] = ()
