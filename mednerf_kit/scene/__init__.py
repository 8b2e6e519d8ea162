"""One posed scene, fitted by one field."""
