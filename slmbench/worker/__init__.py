"""One process a case."""
