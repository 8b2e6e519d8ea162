"""How a ray is sampled: one pixel by every strategy, beside a dense quadrature of the same ray."""
