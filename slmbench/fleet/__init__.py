"""One suite on many machines: workers measure, a scheduler connects them, a client collects the results."""

__all__: tuple[str, ...] = ()
