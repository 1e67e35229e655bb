"""What an encoder has learned: kNN, linear probe, baselines, fine-tuning, and the collapse verdict.

Every accuracy is one look at the test split, with its 95 % interval and the protocol in words.
``metrics`` joins kNN and linear probe for any kind of features; ``collapse`` needs no labels.
"""
