"""Suites: YAML files, read through importlib.resources."""
