"""Sweeps: what to run next, worker processes that run it, a folder that is true after every job."""
