"""Emits a variant's C++ functions from its IR; it knows no family."""
