"""Several processes of one run: the process group, what they compute together, BatchNorm over all of them."""
