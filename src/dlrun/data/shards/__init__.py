"""Datasets in many files that do not fit in memory."""
