"""Series of readings over time."""
