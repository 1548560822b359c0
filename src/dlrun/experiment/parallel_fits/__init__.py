"""Several fits trained as one, behind one door."""
