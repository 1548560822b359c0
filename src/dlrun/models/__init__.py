"""Models: torch modules made from a description of the data."""
