"""Slurm's client programs, and what they say."""
