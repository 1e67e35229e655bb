"""``byolt doctor``: ``survey`` looks at the machine, ``findings`` says what does not fit and the line that mends it."""
