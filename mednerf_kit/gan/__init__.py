"""A distribution of scenes: generator, discriminator, augmentation."""
