"""Everything between files and tensors. Nothing is imported here: `minidetr --help` must not wait for torch."""
