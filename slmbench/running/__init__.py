"""How a run goes, on the host."""
