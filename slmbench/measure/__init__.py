"""Time stamps to metrics."""
