"""A distribution of patients, learned from radiographs: posed, adversarial, or both."""
