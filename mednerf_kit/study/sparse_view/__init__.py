"""Sparse-view reconstruction: one patient from N views, by every method at hand."""
