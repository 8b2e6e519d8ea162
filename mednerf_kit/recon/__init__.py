"""Classical reconstruction (SART, FDK, RTK) and the voxel volume that every field bakes into."""
