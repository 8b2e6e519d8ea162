"""From X-rays back to volumes through a prior."""
