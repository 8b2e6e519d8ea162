"""The commands of ``mednerf-kit``, one file per family; each imports what it needs when it runs."""
