"""Variants of a recipe, trained, scored and compared."""
