"""How people and other tools see results."""

__all__: tuple[str, ...] = ()
