"""How a run goes, on the host."""

__all__: tuple[str, ...] = ()
