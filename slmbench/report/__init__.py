"""How people and other tools see results."""
