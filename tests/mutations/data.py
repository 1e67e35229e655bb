"""Wrong formulas of the order of shards, of how they are packed, and of how they are read."""

from tests.mutations.mutation import Mutation

ORDER, PACKING, INDEX, SHARDS, CACHE = (
    f"toolchain/byolt/data/{name}.py" for name in ("order", "packing", "shard_index", "shards", "shard_cache")
)
IN_ORDER, IN_SHARDS, IN_FAULTS, IN_CACHE = (
    f"tests/data/test_{name}.py" for name in ("order", "shards", "shard_faults", "shard_cache")
)

DATA = [
    Mutation(
        "solar's test not stratified by the probability",
        "toolchain/byolt/data/solar.py",
        "cell[1:]) for cell in cells]",
        "cell[1:]) % 2 for cell in cells]",
        "tests/data/test_solar.py",
    ),
    Mutation("order without the epoch", ORDER, "Philox(key=[seed, epoch])", "Philox(key=[seed, 0])", IN_ORDER),
    Mutation(
        "shards spread over two windows", ORDER, "window * random.random(", "2 * window * random.random(", IN_ORDER
    ),
    Mutation(
        "shards always in the same order",
        ORDER,
        "random.permutation(len(images_per_shard))",
        "np.arange(len(images_per_shard))",
        IN_ORDER,
    ),
    Mutation(
        "an image is packed from its header on",
        PACKING,
        "tar.offset + tarfile.BLOCKSIZE, sample",
        "tar.offset, sample",
        IN_SHARDS,
    ),
    Mutation("labels in the folder's order", PACKING, "else source.labels[order]", "else source.labels", IN_SHARDS),
    Mutation(
        "a shard larger than asked for",
        PACKING,
        "tar.offset + _tar_bytes(sample) <= shard_bytes",
        "tar.offset <= shard_bytes",
        IN_SHARDS,
    ),
    Mutation(
        "packed in the folder's order",
        PACKING,
        "order = epoch_order(len(source), _SEED, 0)",
        "order = np.arange(len(source))",
        IN_SHARDS,
    ),
    Mutation("fingerprint without the digests", INDEX, "self.file_sha256, self.classes)", "self.classes)", IN_SHARDS),
    Mutation("a cut tar is taken for a whole one", INDEX, "!= bytes(tarfile.BLOCKSIZE)", "is None", IN_FAULTS),
    Mutation(
        "a short read is taken for an image", SHARDS, "if len(content) < wanted_bytes:", "if not content:", IN_FAULTS
    ),
    Mutation("a fetched shard is not checked", CACHE, "if digest.hexdigest() != wanted:", "if False:", IN_CACHE),
    Mutation("newest shards evicted", CACHE, "in sorted(kept):", "in sorted(kept, reverse=True):", IN_CACHE),
    Mutation(
        "the cache holds one shard more", CACHE, "+ wanted_bytes - self.budget_bytes", "- self.budget_bytes", IN_CACHE
    ),
]
