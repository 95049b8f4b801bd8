"""Benchmarks: what is measured, against whom, how, and how it is written down. Needs torch and a GPU to run."""
