"""What is compared with what: ablations, random patients, sparse-view methods."""
