"""One radiance field fitted to posed pictures: the same rays, samplers, renderer and loop as the prior."""
