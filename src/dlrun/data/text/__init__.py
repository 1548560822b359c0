"""Texts of the user's own."""
