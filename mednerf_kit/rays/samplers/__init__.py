"""Samplers: where along a ray a field is evaluated. One file a method; ``base`` is the contract."""
