"""From the IR to a cubin; it knows the IR and nothing of tensors or launches."""
