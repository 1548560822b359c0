"""The datasets of the book and of the tasks, one a file."""
