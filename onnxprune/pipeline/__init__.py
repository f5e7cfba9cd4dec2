"""One pruning, stage by stage: evidence, choice, surgery, repair, report."""
