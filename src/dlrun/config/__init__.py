"""Configs: composed, checked, and turned into objects."""
