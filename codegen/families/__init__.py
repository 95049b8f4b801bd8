"""Kernel families: hand-written CUDA templates, one Python file and one .cuh file each."""
