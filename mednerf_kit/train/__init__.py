"""How a picture changes the weights, and how well it did: training, inversion, scores, reports."""
