"""Posed pictures: scenes in the formats people have them in, read into one record. One file per
format.
"""
