"""Static layouts, for NPUs."""
