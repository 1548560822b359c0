"""The universal workflow of the book, step by step."""
