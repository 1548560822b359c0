"""Columns that a fit reads batches from."""
