"""Independent evaluations, on processes of this machine or on a cluster, with a log of what is finished."""
