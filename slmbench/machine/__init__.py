"""What machine this is and what it can do at best."""

__all__: tuple[str, ...] = ()
