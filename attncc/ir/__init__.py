"""The typed IR: values, nodes, their verifier and their text. It knows nobody but the diagnostics."""
