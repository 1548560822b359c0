"""Steps that are fitted on training rows and applied to others."""
