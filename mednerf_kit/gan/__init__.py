"""A distribution of patients: generators, discriminators, augmentation, adversarial losses."""
