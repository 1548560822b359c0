"""Sweeps: what to run next, worker processes that run it, and a folder that is true after every job."""
