"""Models and encoders that read sequences."""
