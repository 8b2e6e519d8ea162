"""Posed pictures: scenes in their usual formats, read into one record. One file per format."""
