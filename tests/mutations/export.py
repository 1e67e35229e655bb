"""Wrong formulas of the export: the graph, half precision, INT8, the measures, the gates, and what is read of files."""

from tests.mutations.mutation import Mutation

FOLDER = "export/byolt_export"
BENCH_RUN = f"{FOLDER}/bench/run.py"
BENCH_TIMING = f"{FOLDER}/runtime/timing.py"
BUNDLE_MANIFEST = f"{FOLDER}/bundle/manifest.py"
ONNX_CONTROLS = f"{FOLDER}/onnx/controls.py"
ONNX_EXPORT = f"{FOLDER}/onnx/export.py"
ONNX_FOLDING = f"{FOLDER}/onnx/folding.py"
ONNX_HALF_PRECISION = f"{FOLDER}/onnx/half_precision.py"
ONNX_PREPROCESSING = f"{FOLDER}/onnx/preprocessing.py"
PROOF_AGREEMENT = f"{FOLDER}/proof/agreement.py"
PROOF_BISECT = f"{FOLDER}/proof/bisect.py"
PROOF_GATES = f"{FOLDER}/proof/gates.py"
PROOF_MEASURES = f"{FOLDER}/proof/measures.py"
PROOF_PARITY = f"{FOLDER}/proof/parity.py"
PROOF_REPORT = f"{FOLDER}/proof/report.py"
PROOF_SPEED = f"{FOLDER}/proof/speed.py"
PROOF_TASK = f"{FOLDER}/proof/task.py"
PROOF_VERIFY = f"{FOLDER}/proof/verify.py"
QUANTIZE_CALIBRATE = f"{FOLDER}/quantize/calibrate.py"
QUANTIZE_STATISTICS = f"{FOLDER}/quantize/activation_statistics.py"
QUANTIZE_EQUALISE = f"{FOLDER}/quantize/equalise.py"
QUANTIZE_PIXELS = f"{FOLDER}/quantize/exact_pixels.py"
QUANTIZE_CPU = f"{FOLDER}/quantize/place_cpu.py"
QUANTIZE_OPENVINO = f"{FOLDER}/quantize/place_openvino.py"
QUANTIZE_TENSORRT = f"{FOLDER}/quantize/place_tensorrt.py"
QUANTIZE_DECIDING = f"{FOLDER}/quantize/deciding.py"
QUANTIZE_FP16 = f"{FOLDER}/quantize/fp16.py"
QUANTIZE_INT8 = f"{FOLDER}/quantize/int8.py"
QUANTIZE_LAYERS = f"{FOLDER}/quantize/layers.py"
QUANTIZE_MULTIPLY_ADDS = f"{FOLDER}/quantize/multiply_adds.py"
QUANTIZE_ROUNDING = f"{FOLDER}/quantize/rounding.py"
QUANTIZE_SENSITIVITY = f"{FOLDER}/quantize/sensitivity.py"
QUANTIZE_TIME_WON = f"{FOLDER}/quantize/time_won.py"
DISTILL_OPERATORS = f"{FOLDER}/distill/operators.py"
DISTILL_TUNE = f"{FOLDER}/distill/tune.py"
RUNTIME_ENCODER = f"{FOLDER}/runtime/encoder.py"
RUNTIME_OPENVINO = f"{FOLDER}/runtime/openvino_runner.py"
RUNTIME_ONNX = f"{FOLDER}/runtime/onnx_runner.py"
TENSORRT_PLAN = f"{FOLDER}/tensorrt/plan.py"
TENSORRT_PROGRESS = f"{FOLDER}/tensorrt/progress.py"

IN_PARITY, IN_BISECT, IN_PRECISION, IN_SENSITIVITY, IN_BENCH, IN_SHARES, IN_PLAN, IN_VERIFY, IN_GRAPH = (
    f"tests/export/test_{name}.py"
    for name in (
        "parity",
        "bisect",
        "precision",
        "sensitivity",
        "bench",
        "multiply_adds",
        "engine_runner",
        "verify",
        "graph",
    )
)
IN_HALF_PRECISION = "tests/export/test_half_precision.py"
IN_MEASURES, IN_TASK, IN_ROUNDING = (f"tests/export/test_{name}.py" for name in ("measures", "task", "rounding"))
IN_EQUALISE, IN_PIXELS, IN_CPU = (f"tests/export/test_{name}.py" for name in ("equalise", "exact_pixels", "place_cpu"))
IN_OPENVINO = "tests/export/test_place_openvino.py"
IN_TIME_WON = "tests/export/test_time_won.py"
IN_DECIDING = "tests/export/test_deciding.py"
IN_FP16 = "tests/export/test_fp16.py"
IN_TENSORRT, IN_SHARE, IN_TUNE = (f"tests/export/test_{name}.py" for name in ("place_tensorrt", "int8_share", "tune"))
IN_TRANSPOSED = "tests/export/test_folding.py::test_windows_times_matrices_are_the_transposed_convolution"
IN_STEADY = "tests/export/test_steady_inputs.py"
IN_FASTEST = "tests/export/test_fastest.py"
IN_EMBEDDINGS = "tests/delivery/test_embeddings.py"
DELIVERY_EMBED = "toolchain/byolt/delivery/embed.py"
IN_PROGRESS = "tests/export/test_engine_progress.py"
# Of a long file the test alone.
IN_TIGHTENED = "tests/export/test_bundle.py::test_a_manifest_tightens_gates_and_never_loosens_them"
IN_LOOSENED = "tests/export/test_bundle.py::test_gates_loosened_in_the_manifest_do_not_fall_back_to_the_outer_ones"
IN_GATES, IN_LITTLE_SPREAD = "tests/export/test_gates.py", "tests/export/test_little_spread.py"
IN_HISTOGRAM = "tests/export/test_page.py::test_the_histogram_counts_each_error_once"
IN_PREPROCESSING = f"{IN_GRAPH}::test_normalisation_by_hand_in_torch_and_in_the_graph"
IN_RESIZE = f"{IN_GRAPH}::test_camera_frames_are_resized_in_the_graph_as_in_training"
IN_FOLDING = f"{IN_GRAPH}::test_folding_follows_the_data_not_the_names"
IN_WRONG_MODELS = f"{IN_GRAPH}::test_wrong_models_are_wrong"
IN_HIDDEN_KERNEL = f"{IN_GRAPH}::test_the_perturbed_kernel_is_one_that_the_outputs_depend_on"
IN_KERNEL_SUMS = f"{IN_HALF_PRECISION}::test_the_first_kernel_is_rounded_so_that_its_windows_keep_their_sums"
IN_HALF = f"{IN_HALF_PRECISION}::test_fp16_multiplies_in_half_and_sums_in_single"
IN_ATTENTION = f"{IN_HALF_PRECISION}::test_attention_in_half_precision"

EXPORT = [
    # The measures of parity and of the task.
    Mutation("error over the candidate's length", PROOF_MEASURES, "length, rows = np.linalg.norm(r, axis=1)", "length, rows = np.linalg.norm(c[: len(r)], axis=1)", IN_MEASURES),
    Mutation("a short row by its own length", PROOF_MEASURES, "max(float(np.median(length)), TINY)", "TINY", IN_MEASURES),
    Mutation("a row near the mean by its direction alone", PROOF_MEASURES, "np.maximum(cosine, at_median), cosine)", "cosine, cosine)", IN_MEASURES),
    Mutation("cosine of uncentred outputs", PROOF_MEASURES, "r, c = reference - mean, candidate - mean", "r, c = reference - 0 * mean, candidate - 0 * mean", IN_MEASURES),
    Mutation("cosine of each about its own mean", PROOF_MEASURES, "r, c = reference - mean, candidate - mean", "r, c = reference - mean, candidate - candidate.mean(axis=0)", IN_MEASURES),
    Mutation("an image is its own neighbour", PROOF_MEASURES, "[np.arange(len(queries)), queries] = -np.inf", "[np.arange(len(queries)), queries] += 0.0", IN_MEASURES),
    Mutation("delivered neighbours by dot product", PROOF_MEASURES, "rows /= np.maximum(", "rows /= np.ones_like(rows) + 0 * np.maximum(", IN_MEASURES),
    Mutation("the order of ties counts", PROOF_MEASURES, ">= kth - _TIE", ">= kth", IN_MEASURES),
    Mutation("neighbours of the first images alone", PROOF_MEASURES, "np.arange(min(rows, queries)) * rows // min(rows, queries)", "np.arange(min(rows, queries))", IN_MEASURES),
    Mutation("top-1 by index, not by value", PROOF_MEASURES, "(chosen >= rows.max(axis=1) - _TIE * np.abs(rows).max(axis=1)).mean()", "(candidate.argmax(axis=1) == reference.argmax(axis=1)).mean()", IN_MEASURES),
    Mutation("classes a float cannot tell apart", PROOF_MEASURES, "rows.max(axis=1) - _TIE * np.abs(rows).max(axis=1)", "rows.max(axis=1)", IN_MEASURES),
    Mutation("spread about the mean", PROOF_MEASURES, "rows - np.median(rows, axis=0)", "rows - rows.mean(axis=0)", IN_LITTLE_SPREAD),
    Mutation("Wald's interval of a share", PROOF_AGREEMENT, "(share + room / 2) / (1 + room)", "share", IN_GATES),
    Mutation("a wider interval of a share", PROOF_AGREEMENT, "room / (4 * queries)", "room / queries", IN_GATES),
    Mutation("close by the upper end", PROOF_AGREEMENT, "share.interval_95[0] < share.gate", "share.interval_95[1] < share.gate", IN_GATES),
    Mutation("worst error is the mean error", PROOF_MEASURES, "relative_l2_worst=float(error.max())", "relative_l2_worst=float(error.mean())", IN_MEASURES),
    Mutation("not a number goes unnoticed", PROOF_MEASURES, "np.isfinite(candidate).all()", "np.isfinite(reference).all()", IN_MEASURES),
    Mutation("histogram with the upper edge in the bin", PROOF_MEASURES, 'side="right"', 'side="left"', IN_HISTOGRAM),
    Mutation("paired interval without the half images", PROOF_TASK, "gained + 0.5, lost + 0.5", "gained, lost", IN_TASK),
    Mutation("delivered difference reversed", PROOF_TASK, "(gained - lost) / len", "(lost - gained) / len", IN_TASK),
    Mutation("not worse by the point estimate", PROOF_TASK, "interval[0] >= -margin", "difference >= -margin", IN_TASK),
    Mutation("a loss within the margin is undecided", PROOF_TASK, "(interval[1] - interval[0]) / 2 > margin", "True", IN_TASK),
    Mutation("delivered votes without weight", PROOF_TASK, "np.exp((np.take_along_axis(cosines, near, axis=1) - 1) / KNN_TEMPERATURE)", "np.ones(near.shape)", IN_TASK),
    Mutation("ridge on outputs of any scale", PROOF_TASK, "scale = 1 / np.maximum(std, ", "scale = np.ones_like(std) / np.maximum(1.0, ", IN_TASK),
    # Gates and verdicts.
    Mutation("worst error ten times the gate", PROOF_GATES, "measures.relative_l2_worst > gates.relative_l2_worst_max", "measures.relative_l2_worst > 10 * gates.relative_l2_worst_max", IN_PARITY),
    Mutation("mean error held against the worst's gate", PROOF_GATES, "measures.relative_l2_mean > gates.relative_l2_mean_max", "measures.relative_l2_mean > gates.relative_l2_worst_max", IN_PARITY),
    Mutation("lower limits from above", PROOF_GATES, "value < limit", "value > limit", IN_PARITY),
    Mutation("a manifest loosens gates", PROOF_GATES, '(min if name.endswith("_max") else max)', '(max if name.endswith("_max") else min)', IN_PARITY),
    Mutation("verify forgets the manifest's gates", PROOF_VERIFY, "tighten(tighten(gates, file.gates), stored[file.name])", "tighten(gates, stored[file.name])", IN_TIGHTENED),
    Mutation("a loosened manifest falls back", PROOF_VERIFY, "tighten(tighten(gates, file.gates), stored[file.name])", "tighten(gates, file.gates)", IN_LOOSENED),
    Mutation("an export forgets the tightened gates", PROOF_VERIFY, "reasons=outer.reasons or delivered.reasons", "reasons=outer.reasons", IN_VERIFY),
    Mutation("controls by the outer gates", PROOF_VERIFY, "delivered = judge(ran, golden, gates=gates", "delivered = judge(ran, golden, gates=outer_gates(precision, images)", IN_VERIFY),
    Mutation("room by the mean of golden and gallery", PROOF_GATES, "max(measures.relative_l2_mean for measures in measured)", "sum(measures.relative_l2_mean for measures in measured) / len(measured)", IN_GATES),
    Mutation("tightened below the floor", PROOF_GATES, "max(room * distance, floor)", "room * distance", IN_GATES),
    Mutation("drift without a floor", PROOF_GATES, "max(_DRIFT_ROOM * reordered_mean, _LEAST_DRIFT)", "_DRIFT_ROOM * reordered_mean", IN_GATES),
    Mutation("a kept file held against what it gives now", "export/byolt_export/proof/drift.py", "given if before is None else before", "given", "tests/export/test_drift.py"),
    Mutation("drift measured from PyTorch", PROOF_PARITY, "relative_l2(own, np.nan_to_num(ran.golden))", "relative_l2(golden.reference, np.nan_to_num(ran.golden))", IN_PARITY),
    Mutation("chance by the mean of a sample", PROOF_GATES, "while so_far < 1 - _BY_CHANCE", "while so_far < 0.5", IN_GATES),
    Mutation("binomial without the order", PROOF_GATES, "(images - missed) / (missed + 1) * (1 - share) / share", "(1 - share) / share", IN_GATES),
    Mutation("batch 1 is not compared with", PROOF_PARITY, "check.from_batch_1_worst)", "None)", IN_PARITY),
    Mutation("the gallery is not judged", PROOF_PARITY, "distances(among_many, gates)", "distances(measured, gates)", IN_PARITY),
    Mutation("neighbours of golden images alone", PROOF_PARITY, "together = measure(np.concatenate(references), np.concatenate([ran.golden, ran.gallery]), logits=logits)", "together = measured", IN_GATES),
    Mutation("a worse task passes", PROOF_PARITY, 'task.verdict != "worse"', 'task.verdict != "failed"', IN_PARITY),
    Mutation("a wrong model may pass", PROOF_PARITY, '"below the limit" if allowed else "not noticed"', '"below the limit"', IN_PARITY),
    Mutation("large perturbations may go unnoticed", PROOF_PARITY, "<= gates.unnoticed_perturbation_max", ">= gates.unnoticed_perturbation_max", IN_PARITY),
    Mutation("detection limit is the largest noise", PROOF_REPORT, "min((share for name, share", "max((share for name, share", IN_PARITY),
    Mutation("the tuned batch is not proven", PROOF_PARITY, "(1, 2, 7, opt_batch, max_batch)", "(1, 2, 7, max_batch)", IN_PARITY),
    Mutation("one that passed outweighs one that failed", PROOF_REPORT, 'if any(file.parity.verdict == "failed" for', 'if all(file.parity.verdict == "failed" for', IN_VERIFY),
    Mutation("what did not run is passed", PROOF_REPORT, '"passed" if self.passed else "not run here"', '"passed"', IN_VERIFY),
    Mutation("a node's error is not its own", PROOF_BISECT, "max(0.0, errors[output] - from_inputs)", "errors[output]", IN_BISECT),
    Mutation("the first bad node by all of its error", PROOF_BISECT, "node.own > limit", "node.relative_l2 > limit", IN_BISECT),
    # INT8: levels, scales, rounding, what goes into the bias.
    Mutation("shift added before the rounding", QUANTIZE_ROUNDING, "np.round((rows - shift) / scale)", "np.round((rows + shift) / scale)", IN_ROUNDING),
    Mutation("int8 cut off, not rounded", QUANTIZE_ROUNDING, "np.clip(np.round((rows", "np.clip(np.trunc((rows", IN_ROUNDING),
    Mutation("a level above int8", QUANTIZE_ROUNDING, "-128, 127) * scale + shift", "-128, 128) * scale + shift", IN_ROUNDING),
    Mutation("range of the positive values alone", QUANTIZE_ROUNDING, "max(-low.min(), high.max()) / 127", "high.max() / 127", IN_ROUNDING),
    Mutation("scales that the file does not hold", QUANTIZE_ROUNDING, "info.max), kind)", "info.max))", IN_ROUNDING),
    Mutation("one scale for a whole kernel", QUANTIZE_ROUNDING, "np.abs(kernel).max(axis=-1) / 127, dtype", "np.broadcast_to(np.abs(kernel).max(), kernel.shape[:2]) / 127, dtype", IN_ROUNDING),
    Mutation("kernel scales whatever the inputs are", QUANTIZE_ROUNDING, " * moments[:, None])", ")", IN_ROUNDING),
    Mutation("levels of the greatest error", QUANTIZE_ROUNDING, "if error < least:", "if error > least or least == np.inf:", IN_ROUNDING),
    Mutation("rounding errors are not taken up", QUANTIZE_ROUNDING, "kernel[:, order[k]] - rounded[:, k] * scales", "0.0 * rounded[:, k]", IN_ROUNDING),
    Mutation("bounds of the last batch alone", QUANTIZE_STATISTICS, "np.minimum(sample.low, low), np.maximum(sample.high, high)", "low, high", IN_PRECISION),
    Mutation("second moments for the covariance", QUANTIZE_STATISTICS, "self.gram / self.count - mean[:, :, None] * mean[:, None]", "self.gram / self.count", IN_PRECISION),
    Mutation("moments in float32", QUANTIZE_STATISTICS, "// batches)).astype(np.float64)", "// batches))", IN_STEADY),
    Mutation("damping whatever the inputs' size", QUANTIZE_CALIBRATE, "_INPUT_ERROR * second.mean(axis=-1)", "0 * second.mean(axis=-1)", IN_STEADY),
    Mutation("gain not taken out of the kernel", QUANTIZE_EQUALISE, "layer.as_matrices() / layer.by_input(gain)", "layer.as_matrices() * layer.by_input(gain)", IN_EQUALISE),
    Mutation("gain not put into the kernel before", QUANTIZE_EQUALISE, "kernel *= factor.reshape(layer.groups, -1, 1)", "kernel *= 1.0", IN_EQUALISE),
    Mutation("a gate takes the gain up the wrong way", QUANTIZE_EQUALISE, "gains.get(gate.output, np.float32(1)) / gains", "gains.get(gate.output, np.float32(1)) * gains", f"{IN_EQUALISE}::test_a_gate_takes_up_what_evens_channels"),
    Mutation("a BatchNorm with the mean of before", QUANTIZE_EQUALISE, "(2, out), (3, into))", "(2, out), (3, np.float32(1)))", f"{IN_EQUALISE}::test_a_batchnorm_takes_up_what_evens_the_channels_of_both_its_sides"),
    Mutation("channels before a BatchNorm left uneven", QUANTIZE_EQUALISE, "in takes_up or _is_norm(node, constants)", "in takes_up", f"{IN_EQUALISE}::test_a_batchnorm_takes_up_what_evens_the_channels_of_both_its_sides"),
    Mutation("any product is a gate", QUANTIZE_EQUALISE, "single == (*whole[:2], 1, 1) != whole", "single[:2] == whole[:2]", f"{IN_EQUALISE}::test_a_product_of_two_whole_tensors_is_no_gate"),
    Mutation("gain by what is read alone", QUANTIZE_EQUALISE, "more=sorted(written)", "more=()", IN_EQUALISE),
    Mutation("pixels from the middle without their mean", QUANTIZE_PIXELS, "(scale * MIDDLE + shift)", "(scale * MIDDLE)", IN_PIXELS),
    Mutation("no channel inside the image", QUANTIZE_PIXELS, "[0, 0, 0, 0, 0, 1, 0, 0]", "[0, 1, 0, 0, 0, 0, 0, 0]", IN_PIXELS),
    Mutation("zero point of the middle", QUANTIZE_ROUNDING, "128 - round(self.shift / self.scale)", "round(self.shift / self.scale)", IN_ROUNDING),
    Mutation("bias in steps of the kernel alone", QUANTIZE_CPU, "step = levels.scale * scales", "step = scales", IN_CPU),
    Mutation("a kept kernel behind one scale", QUANTIZE_CPU, "self._back_by_channel(made, read) if kept else self._back(made, read)", "self._back(made, read)", IN_CPU),
    Mutation("shift not given back", QUANTIZE_TENSORRT, "rounded.bias + shifted.sum(axis=-1)", "rounded.bias", IN_PRECISION),
    Mutation("shift not given back under padding", QUANTIZE_TENSORRT, "taps @ inside.T.astype(np.float64) + rounded.bias[:, None]", "0 * taps @ inside.T.astype(np.float64) + rounded.bias[:, None]", IN_PRECISION),
    Mutation("the mean error is not corrected", QUANTIZE_CALIBRATE, "layer.bias() + correction.sum(axis=-1).ravel()", "layer.bias()", IN_PRECISION),
    Mutation("int8 share by layers", QUANTIZE_CALIBRATE, "sum(layer.multiply_adds for layer in self.layers if layer.name in names) / self.multiply_adds", "len(names) / len(self.layers)", IN_PRECISION),
    Mutation("the shift of what leaves is not scaled", QUANTIZE_TENSORRT, "(offset - leaves.shift) * factor", "offset * factor - leaves.shift", IN_TENSORRT),
    Mutation("a reader's kernel keeps its scale", QUANTIZE_TENSORRT, "scales * (levels.scale / LEAVING_SCALE)", "scales", IN_TENSORRT),
    Mutation("scaled though something else reads it", QUANTIZE_TENSORRT, "any(by not in layers or read != written", "any(read != written", IN_TENSORRT),
    Mutation("shares from the least up", QUANTIZE_INT8, "if least_share < share <= CHOICES[choice][placement]), least_share)", "if least_share < share <= CHOICES[choice][placement]), least_share)[::-1]", IN_SHARE),
    Mutation("the first layer is INT8 always", QUANTIZE_INT8, "[layer for layer in self.calibrated.layers if layer.name in names]", "[layer for layer in self.calibrated.layers if layer.name in names and layer.input != self.calibrated.pixels]", IN_SHARE),
    Mutation("few deciding images have to keep less", QUANTIZE_DECIDING, "gate + 2 * float", "gate - 2 * float", IN_DECIDING),
    Mutation("as many deciding queries as the proof asks", QUANTIZE_DECIDING, "4 * QUERIES", "QUERIES", IN_DECIDING),
    Mutation("the loss does not grow with the images", QUANTIZE_DECIDING, "max(1.0, more) ** 0.25", "1.0", IN_DECIDING),
    Mutation("what learned is taken where it is further off", QUANTIZE_INT8, "after.relative_l2_mean < before.relative_l2_mean and", "after.relative_l2_mean > before.relative_l2_mean and", f"{IN_TUNE}::test_what_was_learned_is_taken_where_it_is_nearer_alone"),
    Mutation("rounding lets no gradient through", DISTILL_OPERATORS, "return gradient", "return gradient * 0", f"{IN_TUNE}::test_a_damaged_file_learns_what_the_encoder_gives"),
    Mutation("rates by the mean bias", DISTILL_TUNE, "float(size.median()) or ", "", f"{IN_TUNE}::test_channels_that_nothing_comes_out_of_do_not_set_the_rate_of_the_others"),
    Mutation("the loss turned round", DISTILL_TUNE, "(2 - 2 * F.cosine", "(2 + 2 * F.cosine", f"{IN_TUNE}::test_the_loss_is_two_less_two_cosines"),
    Mutation("least share of int8 reversed", QUANTIZE_INT8, "(whole - floor)", "(whole - 1 + floor)", IN_PRECISION),
    Mutation("multiply-adds without the map", QUANTIZE_MULTIPLY_ADDS, "return out * int(np.prod(shapes[node.input[1]][1:]))", "return int(np.prod(shapes[node.input[1]]))", IN_PRECISION),
    Mutation("windows one pixel apart", QUANTIZE_LAYERS, "// across * strides[0]", "// across", IN_PRECISION),
    Mutation("a transposed kernel not turned around", QUANTIZE_LAYERS, "kernel[..., ::-1, ::-1] if self.is_transposed else kernel", "kernel", IN_TRANSPOSED),
    Mutation("levels where a hard-swish gives 0", QUANTIZE_LAYERS, "return -3.0, np.inf", "return -np.inf, np.inf", "tests/export/test_place_cpu.py"),
    Mutation("a larger share though it has not learned enough", QUANTIZE_INT8, "if made.keeps_enough:\n                return made", "if made.learned:\n                return made", "tests/export/test_tune.py"),
    Mutation("fp16 up to its very end", QUANTIZE_FP16, "np.finfo(np.float16).max) / 2", "np.finfo(np.float16).max) * 1", IN_FP16),
    Mutation("fp16's range of positive values alone", QUANTIZE_FP16, 'make_node("Abs"', 'make_node("Identity"', IN_FP16),
    Mutation("what overflows becomes fp16", QUANTIZE_FP16, "self.to_half(self.model, self.beyond_range | full)", "self.to_half(self.model, full)", IN_FP16),
    Mutation("fp16 kept of all but the share", QUANTIZE_FP16, '"most_cost": (1 - share) * whole', '"most_cost": share * whole', IN_FP16),
    Mutation("fp16 of all layers but the one judged", QUANTIZE_FP16, "set(kernels.values()) - {kernels[layer.name]}", "{kernels[layer.name]}", IN_FP16),
    Mutation("fp16 judged by int8's gate", QUANTIZE_DECIDING, "GATES[precision].overlap_at_1", 'GATES["int8"].overlap_at_1', IN_DECIDING),
    Mutation("what gives a named tensor becomes fp16", ONNX_HALF_PRECISION, "isdisjoint((*floats, *node.output))", "isdisjoint(floats)", IN_FP16),
    Mutation("a second layer keeps the image's sums", ONNX_HALF_PRECISION, 'resizes = node.op_type == "MatMul" and not', "resizes = not", IN_FP16),
    Mutation("damage of the mean image", QUANTIZE_SENSITIVITY, "np.median(np.nan_to_num(", "np.mean(np.nan_to_num(", IN_SENSITIVITY),
    Mutation("damage whatever the cost", QUANTIZE_SENSITIVITY, "-errors[layer.name] / (costs[layer.name] or _NO_COST)", "-errors[layer.name]", IN_SENSITIVITY),
    Mutation("time won by the slower numbers", QUANTIZE_TIME_WON, "before[k] - after[k]", "after[k] - before[k]", IN_TIME_WON),
    Mutation("a fused layer's time is nobody's", QUANTIZE_TIME_WON, "tensors | {f\"{tensor}{_GIVEN}\" for tensor in tensors}", "tensors", IN_TIME_WON),
    Mutation("time won counts no work", QUANTIZE_INT8, "max(shares[-1], min(share, _CPU_LEAST_WORK))", "shares[-1]", IN_TIME_WON),
    Mutation("a product's own bias twice", QUANTIZE_CPU, "numpy_helper.to_array(self.constants[added]) + self", "2 * numpy_helper.to_array(self.constants[added]) + self", IN_CPU),
    Mutation("single pixels rounded before a sum", QUANTIZE_CPU, "fit if read.isdisjoint(", "fit if not read.issuperset(", IN_CPU),
    Mutation("a window's pixels column by column", QUANTIZE_LAYERS, "y * width + x, height", "x * height + y, height", IN_CPU),
    Mutation("around the image the last pixel", QUANTIZE_LAYERS, "y * width + x, height * width)", "y * width + x, height * width - 1)", IN_CPU),
    Mutation("windows without gaps", QUANTIZE_LAYERS, "* dilations[k]\n", "\n", IN_CPU),
    Mutation("around the image the least level", QUANTIZE_CPU, "pads, zero], f\"{name}{_PADDED}\"", "pads], f\"{name}{_PADDED}\"", IN_CPU),
    Mutation("a window's kernel channel by channel", QUANTIZE_CPU, "transpose(2, 3, 1, 0).reshape(", "transpose(1, 2, 3, 0).reshape(", IN_CPU),
    Mutation("a product without its bias", QUANTIZE_CPU, "restored_rows(made, layer, rounded),\n            _restored_bias(made, name, levels, rounded),", "restored_rows(made, layer, rounded),", IN_CPU),
    Mutation("few channels' windows are gathered", QUANTIZE_CPU, "outputs * channels >= _GATHERED and", "", IN_CPU),
    Mutation("unrounded never for a CPU", QUANTIZE_INT8, "                place = _UNROUNDED\n", "", IN_CPU),
    Mutation("deciding images may be as far off as the proof's", QUANTIZE_DECIDING, "_OF_WORST = 0.8", "_OF_WORST = 1.0", IN_DECIDING),
    Mutation("the same graph is tried twice", QUANTIZE_INT8, "if model == before:", "if before and not tried:", IN_CPU),
    Mutation("the safest is rounded first", QUANTIZE_INT8, "if shares[0] == 1.0:", "if shares:", IN_CPU),
    Mutation("windows are gathered in no time", QUANTIZE_CPU, "PRODUCT_PARTS = (_PADDED, _WINDOWS, ", "PRODUCT_PARTS = (", IN_TIME_WON),
    Mutation("a layer in fp32 costs nothing", QUANTIZE_INT8, "max(least, time_us)", "time_us", IN_TIME_WON),
    Mutation("openvino's int8 without what the rounding took", QUANTIZE_OPENVINO, "rounded.bias", "layer.bias()", f"{IN_OPENVINO}::test_a_layer_is_computed_of_whole_numbers_alone"),
    Mutation("openvino's single pixels as convolutions", QUANTIZE_OPENVINO, "if layer.is_pointwise and tuple(", "if False and tuple(", f"{IN_OPENVINO}::test_outputs_do_not_depend_on_the_batch"),
    Mutation("openvino's int8 proven in onnx runtime", RUNTIME_ONNX, 'OPENVINO if placement == "openvino" else CPU', "CPU", f"{IN_OPENVINO}::test_a_bundle_has_it_where_it_is_asked_for"),
    Mutation("a core of openvino for each file", RUNTIME_OPENVINO, "@cache\ndef _core", "def _core", "tests/export/test_openvino.py::test_a_signal_is_taken_after_two_files_were_opened_and_left"),
    Mutation("a product rounded behind", QUANTIZE_CPU, "[layer for layer in self.layers.values() if not layer.is_matmul]", "list(self.layers.values())", IN_CPU),
    # The graph: preprocessing, resize, BatchNorm, half precision; and the wrong models.
    Mutation("mean added to the pixels", ONNX_PREPROCESSING, "(-mean / std).float()", "(mean / std).float()", IN_PREPROCESSING),
    Mutation("pixels over 256", ONNX_PREPROCESSING, "(1 / (pixels.white * std))", "(1 / ((pixels.white + 1) * std))", IN_PREPROCESSING),
    Mutation("the high byte first", ONNX_PREPROCESSING, "x[..., 0::2] + 256 * x[..., 1::2]", "x[..., 1::2] + 256 * x[..., 0::2]", "tests/export/test_grey.py::test_every_value_arrives_in_three_channels"),
    Mutation("each feature normalised over the batch", ONNX_PREPROCESSING, "nn.functional.normalize(outputs, dim=1)", "nn.functional.normalize(outputs, dim=0)", IN_PREPROCESSING),
    Mutation("frames shrunk without antialiasing", ONNX_PREPROCESSING, '(identity, (size_px, kept), mode="bilinear", antialias=True)', '(identity, (size_px, kept), mode="bilinear")', IN_RESIZE),
    Mutation("crop from the corner", ONNX_PREPROCESSING, "first = (length - kept) // 2", "first = 0", IN_RESIZE),
    Mutation("crop squashes the width", ONNX_PREPROCESSING, "width, side if crop else width", "width, width", IN_RESIZE),
    Mutation("BatchNorm folded by the variance", ONNX_FOLDING, "torch.sqrt(v + eps)", "(v + eps)", IN_FOLDING),
    Mutation("BatchNorm folded without the old bias", ONNX_FOLDING, "0.0 if old_bias is None else _value(traced, old_bias).double()", "0.0", IN_FOLDING),
    Mutation("errors of a half kernel stay", ONNX_HALF_PRECISION, "wanted = exact[..., k] + carried", "wanted = exact[..., k]", IN_KERNEL_SUMS),
    Mutation("sums in half precision", ONNX_HALF_PRECISION, "if adds_up or not floats", "if not floats", IN_HALF),
    Mutation("attention without its scale", ONNX_FOLDING, "(scale or q.shape[-1] ** -0.5)", "(scale or 1.0)", IN_ATTENTION),
    Mutation("swapped channels are the image", ONNX_CONTROLS, "images[..., ::-1], **right", "images, **right", IN_WRONG_MODELS),
    Mutation("the wrong model keeps the mean", ONNX_CONTROLS, '"mean": (0.0, 0.0, 0.0)', '"mean": pixels.mean', IN_WRONG_MODELS),
    Mutation("features shuffled for rows", ONNX_CONTROLS, "np.roll(reference, 1, axis=0)", "np.roll(reference, 1, axis=1)", IN_WRONG_MODELS),
    Mutation("noise where nothing shows it", ONNX_CONTROLS, "if furthest >= _VISIBLE:", "if True:", IN_HIDDEN_KERNEL),
    # Speed, and what files, networks and builds say.
    Mutation("percentile between two calls", BENCH_TIMING, 'method="inverted_cdf"', 'method="linear"', IN_BENCH),
    Mutation("beaten in both numbers alone", BENCH_RUN, "s >= speed and a >= accuracy", "s > speed and a > accuracy", IN_BENCH),
    Mutation("relative speed upside down", BENCH_TIMING, "median(b) / median(a)", "median(a) / median(b)", IN_BENCH),
    Mutation("relative speed by sums", BENCH_TIMING, "median(b) / median(a)", "sum(b) / sum(a)", IN_BENCH),
    Mutation("always the same candidate first", BENCH_TIMING, "turn % max(len(able), 1)", "0", IN_BENCH),
    Mutation("a short batch is its last image", BENCH_TIMING, "np.arange(batch) % len(images)", "np.minimum(np.arange(batch), len(images) - 1)", IN_BENCH),
    Mutation("shares of products, not of multiply-adds", QUANTIZE_MULTIPLY_ADDS, "max(multiply_adds(node, shapes), 1)", "1", IN_SHARES),
    Mutation("any layer before the cast is a resize", QUANTIZE_MULTIPLY_ADDS, 'k < cast and node.op_type == "MatMul" and resizing < 2', "k < cast", IN_SHARES),
    Mutation("int8 by one operand alone", QUANTIZE_MULTIPLY_ADDS, "int8 = all(", "int8 = any(", IN_SHARES),
    Mutation("int8 with products in fp32", BUNDLE_MANIFEST, ">= least and not any(others)", ">= least", IN_SHARES),
    Mutation("a cpu's int8 with products in fp16", BUNDLE_MANIFEST, 'kept: Precision = "fp32" if precision != "int8" or placement in ("cpu", "openvino")', 'kept: Precision = "fp32" if precision != "int8"', IN_SHARES),
    Mutation("the fastest of another machine", RUNTIME_ENCODER, "speed.processor in here and ", "True and ", IN_FASTEST),
    Mutation("the slowest is taken", RUNTIME_ENCODER, "-speed.images_per_s", "speed.images_per_s", IN_FASTEST),
    Mutation("times fp32 upside down", PROOF_SPEED, "relative_speeds(taken, baseline)", "relative_speeds(baseline, taken)", IN_FASTEST),
    Mutation("speeds of other machines are lost", PROOF_VERIFY, "speed.threads) not in replaced]", "speed.threads) in replaced]", IN_FASTEST),
    Mutation("a gallery of any file", DELIVERY_EMBED, "if self.file_sha256 != sha256:", "if False:", IN_EMBEDDINGS),
    Mutation("a plan of another version", TENSORRT_PLAN, "tuple(plan[24:28]) != flavour.release", "tuple(plan[24:26]) != flavour.release[:2]", IN_PLAN),
    Mutation("a build's share without its phases", TENSORRT_PROGRESS, "share = (done + share) / steps", "share = done / steps", IN_PROGRESS),
]  # fmt: skip
