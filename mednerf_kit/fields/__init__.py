"""What fills space: encodings, networks whose weights are given, voxels."""
