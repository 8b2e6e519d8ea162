"""Words, sums and names: what every other layer speaks."""
