"""What random patients of a prior are worth."""
