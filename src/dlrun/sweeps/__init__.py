"""Sweeps: what to run next, worker processes, and a folder that is up to date after every job."""
