"""From a checkpoint to an artifact."""

__all__: tuple[str, ...] = ()
