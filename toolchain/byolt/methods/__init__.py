"""One file a method, each a ``method.Method``: the paper's loss over the networks that are handed in."""
