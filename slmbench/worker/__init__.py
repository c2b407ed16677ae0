"""One process a load: the worker, the line protocol, the host side, the scheduler of rounds."""

__all__: tuple[str, ...] = ()
