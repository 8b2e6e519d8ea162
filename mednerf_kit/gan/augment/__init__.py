"""Augmentation of what a discriminator sees: drawn in one module, applied in another."""
