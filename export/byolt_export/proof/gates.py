"""Limits that a delivered file must keep: the built-in ones, tightened by its manifest, never loosened."""

from collections.abc import Mapping
from dataclasses import replace

from byolt_export.bundle.manifest import Gates
from byolt_export.proof.report import Measures

# Limits for trained weights on real images. fp32 leaves room for another order of summation alone (measured: 1e-6 to
# 5e-5); fp16 is ten times what its rounding costs (measured: 5e-4 to 9e-4), and well below one wrong layer. INT8 has
# 256 levels a tensor: what it must keep is the neighbours; each export tightens the distances to what it measured.
GATES: Mapping[str, Gates] = {
    "fp32": Gates(1e-4, 1e-4, 0.99999, 0.99, 0.99, 0.99, 0.0),
    "fp16": Gates(5e-3, 5e-3, 0.9999, 0.98, 0.98, 0.98, 0.0),
    "int8": Gates(0.05, 0.25, 0.9, 0.95, 0.95, 0.97, 0.4),
}


def faults(measures: Measures, gates: Gates) -> list[str]:
    """What in the measures breaks the gates, one phrase each; empty when all is kept."""
    found = distances(measures, gates)
    for name in ("centred_cosine_worst", "overlap_at_1", "overlap_at_10", "top_1_agreement"):
        value, limit = getattr(measures, name), getattr(gates, name)
        if value is not None and value < limit:
            found.append(f"{name.replace('_', ' ')} {value:.6g} is below {limit:.6g}")
    return found


def distances(measures: Measures, gates: Gates) -> list[str]:
    """The same of the error as a share of an output's length, whatever lies between different images."""
    found = [] if measures.finite else ["outputs are not finite"]
    if measures.relative_l2_worst > gates.relative_l2_worst_max:
        found.append(
            f"relative L2 {measures.relative_l2_worst:.2g} of image {measures.worst_image} "
            f"is above {gates.relative_l2_worst_max:.2g}"
        )
    if measures.relative_l2_mean > gates.relative_l2_mean_max:
        found.append(f"mean relative L2 {measures.relative_l2_mean:.2g} is above {gates.relative_l2_mean_max:.2g}")
    return found


def tighten(gates: Gates, wanted: Mapping[str, float]) -> Gates:
    """The stricter of the built-in and the wanted limit, name by name: a wanted limit never loosens a gate."""
    stricter = {
        name: (min if name.endswith("_max") else max)(limit, getattr(gates, name)) for name, limit in wanted.items()
    }
    return replace(gates, **stricter)
