"""How good a generator's random patients are: their distribution, their consistency from view to view, and what they copy."""
