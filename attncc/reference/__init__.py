"""The reference: what a variant means, evaluated with numpy; it knows the IR and nothing of kernels."""
