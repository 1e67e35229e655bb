"""Many runs compared: ``plan`` says which, ``runner`` makes them, ``ledger`` keeps them, ``metrics`` judges them."""
