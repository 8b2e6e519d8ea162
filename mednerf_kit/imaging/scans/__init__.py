"""CTs from files: each reader says what a file holds, one guard checks it (``read.py``)."""
