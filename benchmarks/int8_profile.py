"""What does ONNX Runtime compute of a bundle's INT8 file for a CPU, and in which numbers? Its own profile, summed up.

    python benchmarks/int8_profile.py BUNDLE [--batch 8]

Prints the time of each operator, which part of the convolutions' time went into kernels that multiply whole numbers,
and whether anything that depends on no image is computed in every call. Writes nothing.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from byolt_export.bundle.folder import INT8_FILES, read_manifest
from byolt_export.bundle.golden import read_golden
from byolt_export.runtime.onnx_profile import node_times_us
from byolt_export.runtime.processor import cpu_name

WHOLE = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger"}
FLOAT = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    images = read_golden(given.bundle, read_manifest(given.bundle)).images[: given.batch]
    model = (given.bundle / INT8_FILES["cpu"]).read_bytes()
    times = times_by_operator(model, images)
    with tempfile.TemporaryDirectory() as name:
        run = as_run(model, Path(name))
    total = sum(times.values())
    print(f"{cpu_name()}, one thread, ONNX Runtime {onnxruntime.__version__}, batch {len(images)}\n")
    print("| operator | part of the time |\n|---|---|")
    for operator, time_us in times.most_common():
        print(f"| {operator} | {time_us / total:.1%} |")
    whole, single = (sum(times[operator] for operator in group) for group in (WHOLE, FLOAT))
    print(f"\nproducts in whole numbers: {whole / (whole + single):.1%} of the time of all products")
    found = of_no_image(run)
    print(f"computed in every call of constants alone: {', '.join(found) or 'nothing'}")


def times_by_operator(model: bytes, images: np.ndarray) -> Counter[str]:
    """Microseconds of a call."""
    times: Counter[str] = Counter()
    for (_, operator), time_us in node_times_us(model, {"images": images}).items():
        times[operator] += time_us
    return times


def as_run(model: bytes, folder: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime runs, after its own changes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "as_run.onnx")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "as_run.onnx")


def of_no_image(model: onnx.ModelProto) -> list[str]:
    """Operators, with their counts, whose inputs are all constants or come of constants."""
    fixed = {constant.name for constant in model.graph.initializer}
    found: Counter[str] = Counter()
    for node in model.graph.node:
        if fixed.issuperset(name for name in node.input if name):
            fixed.update(node.output)
            found[node.op_type] += 1
    return [f"{count} {operator}" for operator, count in found.items()]


if __name__ == "__main__":
    main()
