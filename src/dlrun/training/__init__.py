"""The trainer: one loop that knows no problem, its optimizers, schedules and callbacks."""
