"""Drawings of masks; it knows the reference and nothing of kernels."""
