"""Metrics: pure functions of pictures, volumes and feature vectors."""
