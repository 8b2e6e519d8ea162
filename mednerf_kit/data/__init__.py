"""Where pictures come from: DRR sets, single radiographs, phantom cohorts."""
