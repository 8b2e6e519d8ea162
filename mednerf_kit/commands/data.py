"""``mednerf-kit drr`` and ``mednerf-kit data make``: X-rays from CTs and phantoms."""
