"""Training without a subject: the loop, run folders, snapshots, processes, optimisers."""
