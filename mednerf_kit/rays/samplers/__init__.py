"""Samplers: where along a ray a field is evaluated. One file a method; the contract is in
`base`.
"""
