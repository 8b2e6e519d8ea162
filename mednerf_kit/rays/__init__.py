"""Along a ray: which pixels, where to sample, how samples become a picture."""
