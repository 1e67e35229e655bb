"""Many runs compared: ``plan`` says which, ``runner`` makes them, ``ledger`` keeps them.

``measure`` measures one run, ``results`` compares them, ``study`` and ``ablations`` are the two kinds.
"""
