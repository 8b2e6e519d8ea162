"""Selectors: which pixels a training step supervises. The contract is in ``base``."""
