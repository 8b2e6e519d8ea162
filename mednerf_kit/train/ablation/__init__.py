"""Ablations: cells × seeds × scenes, each a whole run that differs from a common base in a few values, and what they show."""
