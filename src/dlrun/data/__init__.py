"""Data: read, described, audited, prepared and loaded."""
