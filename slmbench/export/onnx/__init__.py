"""slmbench's own ONNX exporter."""

__all__: tuple[str, ...] = ()
