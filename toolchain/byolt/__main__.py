"""``python -m byolt`` is ``byolt``."""

from byolt.cli import main

main()
