"""What several backends share."""

__all__: tuple[str, ...] = ()
