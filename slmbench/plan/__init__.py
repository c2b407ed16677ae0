"""What will be measured."""

__all__: tuple[str, ...] = ()
