"""What is this file? Artifacts that the user brings, known by their headers alone."""

__all__: tuple[str, ...] = ()
