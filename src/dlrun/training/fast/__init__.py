"""Steps made fast: recorded and replayed, compiled, fused, flat."""
