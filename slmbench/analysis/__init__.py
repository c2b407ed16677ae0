"""What the samples say."""
