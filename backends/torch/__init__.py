"""PyTorch."""

__all__: tuple[str, ...] = ()
