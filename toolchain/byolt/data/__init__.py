"""Images in: sources of undecoded images, the splits of a recipe, and stores of decoded squares.

Reading order: ``source`` (what a set is), ``folder`` with ``folder_listing``, ``named_sets`` and ``synthetic`` (three
kinds of it), ``shards`` (a fourth, with ``shard_index``, ``shard_cache`` and ``packing``), ``splits`` (what a recipe
learns from and is tested on), ``run_images`` and ``known_splits`` (the same for a run that has begun), ``order`` (of an
epoch), ``store`` (decoded once, or streamed), ``folder_check`` (``byolt data check``).
"""

from byolt.data.folder import FolderSource
from byolt.data.source import ImageSource
from byolt.data.splits import Splits, open_splits
from byolt.data.store import ImageStore, open_store, store_of

__all__ = ["FolderSource", "ImageSource", "ImageStore", "Splits", "open_splits", "open_store", "store_of"]
