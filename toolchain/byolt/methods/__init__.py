"""One file per method, each a subclass of ``base.Method``: the paper's loss over the networks that are handed in."""
