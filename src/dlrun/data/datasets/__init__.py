"""The book's datasets and those of the tasks, and synthetic samples of the same shapes."""
