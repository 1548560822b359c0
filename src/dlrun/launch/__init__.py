"""Carries runs out: in this process, over ranks, as jobs of a sweep, through Hydra launchers."""
