"""Where a photograph of a fitted scene was taken from, and how often that is found."""
