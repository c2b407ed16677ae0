"""One suite on many machines: workers that measure, a scheduler where they meet, a client that collects."""

__all__: tuple[str, ...] = ()
