"""slmbench's own ONNX exporter."""
