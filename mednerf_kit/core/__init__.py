"""The lowest layer: records, sums along rays, registries and recipes, files and errors."""
