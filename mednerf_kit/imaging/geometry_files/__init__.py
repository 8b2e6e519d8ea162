"""Files of X-ray set-ups as other programs write and read them, one module a format."""
