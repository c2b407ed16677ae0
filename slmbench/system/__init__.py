"""What is needed of the operating system."""

__all__: tuple[str, ...] = ()
