"""Wrong formulas of the export: the graph, half precision, INT8, the measures, the gates, and what is read of files."""

from tests.mutations.mutation import Mutation

FOLDER = "export/byolt_export"
MEASURES, GATES, VERIFY, BISECT = (f"{FOLDER}/{name}.py" for name in ("measures", "parity", "verify", "bisect"))
ROUNDING, CALIBRATE, LAYERS = (f"{FOLDER}/{name}.py" for name in ("rounding", "calibrate", "layers"))
QUANTISE, SENSITIVITY = f"{FOLDER}/precision.py", f"{FOLDER}/sensitivity.py"
PREPROCESSING, RESIZE, HALF, BATCHNORM, WRONG_MODELS = (f"{FOLDER}/graph.py",) * 5
BENCH, CONTENTS, NETWORK, PROGRESS = (f"{FOLDER}/{name}.py" for name in ("bench", "contents", "plan", "trace"))

IN_PARITY, IN_BISECT, IN_PRECISION, IN_SENSITIVITY, IN_BENCH, IN_CONTENTS, IN_ENGINE, IN_VERIFY, IN_GRAPH = (
    f"tests/export/test_{name}.py"
    for name in ("parity", "bisect", "precision", "sensitivity", "bench", "contents", "engine", "verify", "graph")
)
# Of a long file the test alone.
IN_TIGHTENED = "tests/export/test_bundle.py::test_a_manifest_tightens_gates_and_never_loosens_them"
IN_HISTOGRAM = "tests/export/test_page.py::test_the_histogram_counts_each_error_once"
IN_PREPROCESSING = f"{IN_GRAPH}::test_normalisation_by_hand_in_torch_and_in_the_graph"
IN_RESIZE = f"{IN_GRAPH}::test_camera_frames_are_resized_in_the_graph_as_in_training"
IN_FOLDING = f"{IN_GRAPH}::test_folding_follows_the_data_not_the_names"
IN_WRONG_MODELS = f"{IN_GRAPH}::test_wrong_models_are_wrong"
IN_HIDDEN_KERNEL = f"{IN_GRAPH}::test_the_perturbed_kernel_is_one_that_the_outputs_depend_on"
IN_KERNEL_SUMS = f"{IN_GRAPH}::test_the_first_kernel_is_rounded_so_that_its_windows_keep_their_sums"
IN_HALF = f"{IN_GRAPH}::test_fp16_multiplies_in_half_and_sums_in_single"
IN_ATTENTION = f"{IN_GRAPH}::test_attention_in_half_precision"

EXPORT = [
    # The measures of parity and of the task.
    Mutation("error over the candidate's length", MEASURES, "np.maximum(np.linalg.norm(r, axis=1)", "np.maximum(np.linalg.norm(c, axis=1)", IN_PARITY),
    Mutation("cosine of uncentred outputs", MEASURES, "r, c = reference - mean, candidate - mean", "r, c = reference, candidate", IN_PARITY),
    Mutation("cosine of each about its own mean", MEASURES, "r, c = reference - mean, candidate - mean", "r, c = reference - mean, candidate - candidate.mean(axis=0)", IN_PARITY),
    Mutation("an image is its own neighbour", MEASURES, "[np.arange(len(queries)), queries] = -np.inf", "[np.arange(len(queries)), queries] += 0.0", IN_PARITY),
    Mutation("delivered neighbours by dot product", MEASURES, "rows /= np.maximum(", "rows /= np.ones_like(rows) + 0 * np.maximum(", IN_PARITY),
    Mutation("the order of ties counts", MEASURES, ">= kth - _TIE", ">= kth", IN_PARITY),
    Mutation("neighbours of the first images alone", MEASURES, "np.arange(min(rows, QUERIES)) * rows // min(rows, QUERIES)", "np.arange(min(rows, QUERIES))", IN_PARITY),
    Mutation("top-1 by index, not by value", MEASURES, "(chosen == reference.max(axis=1)).mean()", "(candidate.argmax(axis=1) == reference.argmax(axis=1)).mean()", IN_PARITY),
    Mutation("worst error is the mean error", MEASURES, "relative_l2_worst=float(error.max())", "relative_l2_worst=float(error.mean())", IN_PARITY),
    Mutation("not a number goes unnoticed", MEASURES, "np.isfinite(candidate).all()", "np.isfinite(reference).all()", IN_PARITY),
    Mutation("histogram with the upper edge in the bin", MEASURES, 'side="right"', 'side="left"', IN_HISTOGRAM),
    Mutation("paired interval without the half images", MEASURES, "gained + 0.5, lost + 0.5", "gained, lost", IN_PARITY),
    Mutation("delivered difference reversed", MEASURES, "(gained - lost) / len", "(lost - gained) / len", IN_PARITY),
    Mutation("not worse by the point estimate", MEASURES, "interval[0] >= -margin", "difference >= -margin", IN_PARITY),
    Mutation("a loss within the margin is undecided", MEASURES, "(interval[1] - interval[0]) / 2 > margin", "True", IN_PARITY),
    Mutation("delivered votes without weight", MEASURES, "np.exp((np.take_along_axis(cosines, near, axis=1) - 1) / KNN_TEMPERATURE)", "np.ones(near.shape)", IN_PARITY),
    Mutation("ridge on outputs of any scale", MEASURES, "scale = 1 / np.maximum(std, ", "scale = np.ones_like(std) / np.maximum(1.0, ", IN_PARITY),
    # Gates and verdicts.
    Mutation("worst error ten times the gate", GATES, "measures.relative_l2_worst > gates.relative_l2_worst_max", "measures.relative_l2_worst > 10 * gates.relative_l2_worst_max", IN_PARITY),
    Mutation("mean error held against the worst's gate", GATES, "measures.relative_l2_mean > gates.relative_l2_mean_max", "measures.relative_l2_mean > gates.relative_l2_worst_max", IN_PARITY),
    Mutation("lower limits from above", GATES, "value < limit", "value > limit", IN_PARITY),
    Mutation("a manifest loosens gates", GATES, '(min if name.endswith("_max") else max)', '(max if name.endswith("_max") else min)', IN_PARITY),
    Mutation("verify forgets the manifest's gates", VERIFY, "tighten(GATES[file.precision], file.gates)", "GATES[file.precision]", IN_TIGHTENED),
    Mutation("batch 1 is not compared with", GATES, "check.from_batch_1_worst)", "None)", IN_PARITY),
    Mutation("the gallery is not judged", GATES, "in faults(gallery, gates)", "in faults(golden, gates)", IN_PARITY),
    Mutation("a worse task passes", GATES, 'task.verdict == "worse"', 'task.verdict == "failed"', IN_PARITY),
    Mutation("a wrong model may pass", GATES, '"below the limit" if allowed else "not noticed"', '"below the limit"', IN_PARITY),
    Mutation("large perturbations may go unnoticed", GATES, "<= gates.unnoticed_perturbation_max", ">= gates.unnoticed_perturbation_max", IN_PARITY),
    Mutation("detection limit is the largest noise", GATES, "min((share for name, share", "max((share for name, share", IN_PARITY),
    Mutation("the tuned batch is not proven", GATES, "(1, 2, 7, opt_batch, max_batch)", "(1, 2, 7, max_batch)", IN_PARITY),
    Mutation("one that passed outweighs one that failed", VERIFY, 'if any(file.parity.verdict == "failed" for', 'if all(file.parity.verdict == "failed" for', IN_VERIFY),
    Mutation("what did not run is passed", VERIFY, '"passed" if self.passed else "not run here"', '"passed"', IN_VERIFY),
    Mutation("a node's error is not its own", BISECT, "max(0.0, errors[output] - brought)", "errors[output]", IN_BISECT),
    Mutation("the first bad node by all of its error", BISECT, "layer.own > limit", "layer.relative_l2 > limit", IN_BISECT),
    # INT8: levels, scales, rounding, what goes into the bias.
    Mutation("shift added before the rounding", ROUNDING, "np.round((rows - np.float32(shift))", "np.round((rows + np.float32(shift))", IN_PRECISION),
    Mutation("int8 cut off, not rounded", ROUNDING, "np.clip(np.round((rows", "np.clip(np.trunc((rows", IN_PRECISION),
    Mutation("a level above int8", ROUNDING, "-128, 127) * np.float32(", "-128, 128) * np.float32(", IN_PRECISION),
    Mutation("range of the positive values alone", ROUNDING, "max(-low.min(), high.max()) / 127", "high.max() / 127", IN_PRECISION),
    Mutation("scales that the file does not hold", ROUNDING, ".astype(kind).astype(np.float64)", ".astype(np.float64)", IN_PRECISION),
    Mutation("one scale for a whole kernel", ROUNDING, "np.abs(kernel).max(axis=-1) / 127, dtype", "np.broadcast_to(np.abs(kernel).max(), kernel.shape[:2]) / 127, dtype", IN_PRECISION),
    Mutation("kernel scales whatever the inputs are", ROUNDING, " * moments[:, None])", ")", IN_PRECISION),
    Mutation("levels of the greatest error", ROUNDING, "if error < best:", "if error > best or best == np.inf:", IN_PRECISION),
    Mutation("rounding errors are not taken up", ROUNDING, "kernel[:, order[k]] - rounded[:, k] * scales", "0.0 * rounded[:, k]", IN_PRECISION),
    Mutation("bounds of the last batch alone", CALIBRATE, "np.minimum(seen.low, low), np.maximum(seen.high, high)", "low, high", IN_PRECISION),
    Mutation("second moments for the covariance", CALIBRATE, "second - mean[:, :, None] * mean[:, None]", "second", IN_PRECISION),
    Mutation("gain not taken out of the kernel", QUANTISE, "kernel /= gain[:, None]", "kernel /= 1.0", IN_PRECISION),
    Mutation("shift not given back", QUANTISE, "bias + shifted.sum(axis=-1).ravel()", "bias", IN_PRECISION),
    Mutation("shift not given back under padding", QUANTISE, "np.ones((1, 1, *layer.in_shape[2:]), dtype)", "np.zeros((1, 1, *layer.in_shape[2:]), dtype)", IN_PRECISION),
    Mutation("the mean error is not corrected", QUANTISE, "layer.bias() + correction.ravel()", "layer.bias()", IN_PRECISION),
    Mutation("int8 share by layers", QUANTISE, "sum(layer.macs for layer in int8) / total", "len(int8) / len(layers)", IN_PRECISION),
    Mutation("least share of int8 reversed", QUANTISE, "- least_share * total", "- (1 - least_share) * total", IN_PRECISION),
    Mutation("multiply-adds without the map", LAYERS, "return out * int(np.prod(shapes[node.input[1]][1:]))", "return int(np.prod(shapes[node.input[1]]))", IN_PRECISION),
    Mutation("windows one pixel apart", LAYERS, "// across * strides[0]", "// across", IN_PRECISION),
    Mutation("damage of the mean image", SENSITIVITY, "np.median(np.concatenate(moved))", "np.mean(np.concatenate(moved))", IN_SENSITIVITY),
    Mutation("damage whatever the work", SENSITIVITY, "-damage[layer.name] / layer.macs", "-damage[layer.name]", IN_SENSITIVITY),
    # The graph: preprocessing, resize, BatchNorm, half precision; and the wrong models.
    Mutation("mean added to the pixels", PREPROCESSING, "(-mean / std).float()", "(mean / std).float()", IN_PREPROCESSING),
    Mutation("pixels over 256", PREPROCESSING, "(1 / (255 * std))", "(1 / (256 * std))", IN_PREPROCESSING),
    Mutation("each feature normalised over the batch", PREPROCESSING, "nn.functional.normalize(outputs, dim=1)", "nn.functional.normalize(outputs, dim=0)", IN_PREPROCESSING),
    Mutation("frames shrunk without antialiasing", RESIZE, '(identity, (size_px, kept), mode="bilinear", antialias=True)', '(identity, (size_px, kept), mode="bilinear")', IN_RESIZE),
    Mutation("crop from the corner", RESIZE, "first = (length - kept) // 2", "first = 0", IN_RESIZE),
    Mutation("crop squashes the width", RESIZE, "width, side if crop else width", "width, width", IN_RESIZE),
    Mutation("BatchNorm folded by the variance", BATCHNORM, "torch.sqrt(value(var) + eps)", "(value(var) + eps)", IN_FOLDING),
    Mutation("BatchNorm folded without the old bias", BATCHNORM, "(0.0 if old_bias is None else value(old_bias))", "0.0", IN_FOLDING),
    Mutation("errors of a half kernel stay", HALF, "wanted = exact[..., k] + carried", "wanted = exact[..., k]", IN_KERNEL_SUMS),
    Mutation("sums in half precision", HALF, "a.float() if isinstance(a, Tensor)", "a.half() if isinstance(a, Tensor)", IN_HALF),
    Mutation("attention without its scale", HALF, "(scale or q.shape[-1] ** -0.5)", "(scale or 1.0)", IN_ATTENTION),
    Mutation("swapped channels are the image", WRONG_MODELS, "images[..., ::-1], **right", "images, **right", IN_WRONG_MODELS),
    Mutation("the wrong model keeps the mean", WRONG_MODELS, '"mean": (0.0, 0.0, 0.0)', '"mean": pixels.mean', IN_WRONG_MODELS),
    Mutation("features shuffled for rows", WRONG_MODELS, "np.roll(reference, 1, axis=0)", "np.roll(reference, 1, axis=1)", IN_WRONG_MODELS),
    Mutation("noise where nothing shows it", WRONG_MODELS, "if furthest >= _VISIBLE:", "if True:", IN_HIDDEN_KERNEL),
    # Speed, and what files, networks and builds say.
    Mutation("percentile between two calls", BENCH, 'method="inverted_cdf"', 'method="linear"', IN_BENCH),
    Mutation("beaten in both numbers alone", BENCH, "s >= speed and a >= accuracy", "s > speed and a > accuracy", IN_BENCH),
    Mutation("relative speed upside down", BENCH, "median(b) / median(a)", "median(a) / median(b)", IN_BENCH),
    Mutation("relative speed by sums", BENCH, "median(b) / median(a)", "sum(b) / sum(a)", IN_BENCH),
    Mutation("always the same candidate first", BENCH, "turn % max(len(able), 1)", "0", IN_BENCH),
    Mutation("a short batch is its last image", BENCH, "np.arange(batch) % len(images)", "np.minimum(np.arange(batch), len(images) - 1)", IN_BENCH),
    Mutation("precision weighed by kernels", CONTENTS, "elements * places.get(", "elements + 0 * places.get(", IN_CONTENTS),
    Mutation("any layer before the cast is a resize", CONTENTS, 'k < first and node.operator == "MatMul" and resizing < 2', "k < first", IN_CONTENTS),
    Mutation("int8 by its kernels alone", CONTENTS, "not any(_is_dequantised(name, makers) for name in others)", "False", IN_CONTENTS),
    Mutation("a little int8 is int8", NETWORK, "asked * 2 >= total", "asked > 0", IN_ENGINE),
    Mutation("multiply-adds as if ungrouped", NETWORK, "window * source[1] // groups", "window * source[1]", IN_ENGINE),
    Mutation("multiply-adds of the transposed operand", NETWORK, "source[-2 if layer.op0", "source[-1 if layer.op0", IN_ENGINE),
    Mutation("a plan of another version", NETWORK, "tuple(plan[24:28]) != flavour.release", "tuple(plan[24:26]) != flavour.release[:2]", IN_ENGINE),
    Mutation("a build's share without its phases", PROGRESS, "share = (done + share) / steps", "share = done / steps", IN_ENGINE),
]  # fmt: skip
