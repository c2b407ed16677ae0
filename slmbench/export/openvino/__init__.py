"""slmbench's own OpenVINO exporter."""
