"""The .attn language: text to tree to IR; it knows the IR and nothing of kernels."""
