"""Two augmented views of each image: one spec (``recipe.views``), two backends that draw from the same distributions.

``batched`` makes a whole batch in torch on the device; ``albumentations_backend`` makes single images in workers. Both
take their randomness from ``hashing``: a view is a function of (seed, epoch, image, view), whoever makes it.
"""

from byolt.views.batched import batched_views, in_unit_range, normalise

__all__ = ["batched_views", "in_unit_range", "normalise"]
