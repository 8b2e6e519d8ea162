"""Selectors: which pixels are supervised. One file a method; the contract is in `base`."""
