"""Projections of other programs, brought into a set of this package; one module a format."""
