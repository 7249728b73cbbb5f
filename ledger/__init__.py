"""The audit sink."""
