"""Passes over the IR; they know the IR and nothing else."""
