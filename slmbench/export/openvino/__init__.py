"""slmbench's own OpenVINO exporter."""

__all__: tuple[str, ...] = ()
