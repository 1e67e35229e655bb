"""Wrong formulas of the methods: BYOL, SimCLR, SimSiam, MoCo v2 and v3, Mean Teacher."""

from tests.mutations.mutation import Mutation

FOLDER = "toolchain/byolt/methods"
METHOD, BYOL, SIMCLR = f"{FOLDER}/base.py", f"{FOLDER}/byol.py", f"{FOLDER}/simclr.py"
SIMSIAM, MOCO, TEACHER = f"{FOLDER}/simsiam.py", f"{FOLDER}/moco_v2.py", f"{FOLDER}/mean_teacher.py"
EMA = f"{FOLDER}/ema.py"
MOCO_3, SEEDS = f"{FOLDER}/moco_v3.py", "toolchain/byolt/networks/encoders.py"
SAMPLER = "toolchain/byolt/data/sampler.py"
IN_BYOL, IN_SIMCLR, IN_SIMSIAM = (f"tests/methods/test_{name}.py" for name in ("byol", "simclr", "simsiam"))
IN_MOCO, IN_TEACHER = "tests/methods/test_moco.py", "tests/methods/test_mean_teacher.py"
IN_BUILD, IN_LOADER = "tests/methods/test_build.py", "tests/training/test_loader.py"
SECOND = "yield self.predict(self.project(view_2), target_2, target_1)"
DIRECTIONS = "((view_1, key_2), (view_2, key_1))"
KEYS_2 = f"for view, key in {DIRECTIONS}:\n            z = self._queries(view)"
KEYS_3 = f"for view, key in {DIRECTIONS}:\n            z = self.project(view)"

METHODS = [
    Mutation("BYOL: sign flipped", BYOL, "(2 - 2 * F.cos", "(2 + 2 * F.cos", IN_BYOL),
    Mutation("BYOL: sum for mean", BYOL, "dim=-1)).mean()", "dim=-1)).sum()", IN_BYOL),
    Mutation("BYOL: half its scale", BYOL, "(2 - 2 * F.cos", "(1 - F.cos", IN_BYOL),
    Mutation("BYOL: one direction twice", BYOL, SECOND, SECOND.replace("view_2), target_2, target_1", "view_1), target_1, target_2"), IN_BYOL),
    Mutation("BYOL: a view predicts itself", BYOL, "regression_loss(q, other, self", "regression_loss(q, same, self", IN_BYOL),
    Mutation("BYOL: no stop-gradient", BYOL, "(z_1.detach(), z_2.detach()) if self.stop", "(z_1, z_2) if self.stop", IN_BYOL),
    Mutation("BYOL: stop-gradient for ever", BYOL, "if self.stop_gradient else (z_1, z_2)", "", IN_BYOL),
    Mutation("BYOL: gradient through the target", BYOL, ".requires_grad_(False)", "", IN_BYOL),
    Mutation(
        "BYOL: statistics shared by the views",
        BYOL,
        "z_1, z_2 = self.project(view_1), self.project(view_2)",
        "z_1, z_2 = self.project(torch.cat([view_1, view_2])).chunk(2)",
        IN_BYOL,
    ),
    Mutation(
        "BYOL: target in eval mode",
        BYOL,
        "target_1, target_2 = self.target(view_1), self.target(view_2)",
        "self.target.eval(); target_1, target_2 = self.target(view_1), self.target(view_2)",
        IN_BYOL,
    ),
    Mutation("BYOL: no predictor in the loss", BYOL, "q = z if self.predictor is None else", "q = z if True else", IN_BYOL),
    Mutation("BYOL: a frozen target moves", BYOL, "if self.moving:", "if True:", IN_BYOL),
    Mutation("BYOL: negatives pull", BYOL, "loss + self.beta * negative_term", "loss - self.beta * negative_term", IN_BYOL),
    Mutation("BYOL: a negative is the image itself", BYOL, "within = within.scatter(", "_ = within.scatter(", IN_BYOL),
    Mutation("BYOL: negatives of lengths as they are", BYOL, "F.normalize(upcast(gather_rows(other)), dim=1)", "upcast(gather_rows(other))", IN_BYOL),
    Mutation("BYOL: layer norm over the batch", BYOL, "F.layer_norm(x, x.shape[1:])", "F.layer_norm(x, x.shape)", IN_BYOL),
    Mutation("target moves with tau for 1 - tau", EMA, "_foreach_lerp_(xi, theta, 1 - tau)", "_foreach_lerp_(xi, theta, tau)", IN_BYOL),
    Mutation("target's statistics averaged too", EMA, "xi: list[Tensor] = list(target.parameters())", "xi: list[Tensor] = list(target.parameters()); [b.fill_(0) for b in target.buffers()]", IN_BYOL),
    Mutation("SimCLR: sign flipped", SIMCLR, "z @ keys.T / temperature", "-z @ keys.T / temperature", IN_SIMCLR),
    Mutation("SimCLR: features of any length", SIMCLR, "F.normalize(upcast(torch.cat([z_1, z_2])), dim=1)", "upcast(torch.cat([z_1, z_2]))", IN_SIMCLR),
    Mutation("SimCLR: temperature multiplied", SIMCLR, "keys.T / temperature", "keys.T * temperature", IN_SIMCLR),
    Mutation("SimCLR: a view among its own negatives", SIMCLR, "logits = logits.scatter(", "_ = logits.scatter(", IN_SIMCLR),
    Mutation("SimCLR: positive is the next image", SIMCLR, "torch.cat([second, first])", "torch.cat([second, first]).roll(1)", IN_SIMCLR),
    Mutation("SimCLR: no gradient through one view", SIMCLR, "nt_xent(z_1, z_2, self.temperature)", "nt_xent(z_1, z_2.detach(), self.temperature)", IN_SIMCLR),
    Mutation("SimCLR: sum for mean", SIMCLR, "F.cross_entropy(logits, other_view)", 'F.cross_entropy(logits, other_view, reduction="sum")', IN_SIMCLR),
    Mutation("SimCLR: statistics shared by the views", SIMCLR, "z_1, z_2 = self.project(view_1), self.project(view_2)", "z_1, z_2 = self.project(torch.cat([view_1, view_2])).chunk(2)", IN_SIMCLR),
    Mutation("SimSiam: sign flipped", SIMSIAM, "return -F.cos", "return F.cos", IN_SIMSIAM),
    Mutation("SimSiam: no stop-gradient", SIMSIAM, "z_2.detach()) / 2", "z_2) / 2", IN_SIMSIAM),
    Mutation("SimSiam: one direction alone", SIMSIAM, " + negative_cosine(p_2, z_1.detach()) / 2", "", IN_SIMSIAM),
    Mutation("SimSiam: not halved", SIMSIAM, "z_2.detach()) / 2", "z_2.detach())", IN_SIMSIAM),
    Mutation("SimSiam: a view predicts itself", SIMSIAM, "negative_cosine(p_1, z_2.detach())", "negative_cosine(p_1, z_1.detach())", IN_SIMSIAM),
    Mutation("SimSiam: no predictor on one side", SIMSIAM, "self.predictor(z_1), self.predictor(z_2)", "self.predictor(z_1), z_2", IN_SIMSIAM),
    Mutation("SimSiam: sum for mean", SIMSIAM, "dim=-1).mean()", "dim=-1).sum()", IN_SIMSIAM),
    Mutation("MoCo v2: no queue update", MOCO, "        self._enqueue(torch.cat([gather_rows(key_1), gather_rows(key_2)]))\n", "", IN_MOCO),
    Mutation("MoCo v2: the newest keys leave first", MOCO, "self.position.copy_((self.position + len(keys)) % len(self.queue))", "pass", IN_MOCO),
    Mutation("MoCo v2: one view's keys alone", MOCO, "torch.cat([gather_rows(key_1), gather_rows(key_2)])", "key_1", IN_MOCO),
    Mutation("MoCo v2: temperature multiplied", MOCO, "torch.cat([own, others], 1) / self.temperature", "torch.cat([own, others], 1) * self.temperature", IN_MOCO),
    Mutation("MoCo v2: queries of any length", MOCO, "query, key = F.normalize(upcast(query), dim=1), F", "query, key = upcast(query), F", IN_MOCO),
    Mutation("MoCo v2: positive is the oldest key", MOCO, "torch.cat([own, others], 1)", "torch.cat([others, own], 1)", IN_MOCO),
    Mutation("MoCo v2: keys left shuffled", MOCO, "torch.empty_like(keys).index_copy_(0, order, keys)", "keys", IN_MOCO),
    Mutation("MoCo v2: keys normalised beside their queries", MOCO, "order.view(-1, self.norm_groups).T.flatten()", "order", IN_MOCO),
    Mutation("MoCo v2: queries normalised all together", MOCO, "parts = view.chunk(self.norm_groups // world_size())", "parts = view.chunk(1)", IN_MOCO),
    Mutation("MoCo v2: not halved", MOCO, "self.contrast(z, key, negatives) / 2", "self.contrast(z, key, negatives)", IN_MOCO),
    Mutation("MoCo v3: temperature not in the scale", MOCO_3, "2 * self.temperature * info_nce", "2 * info_nce", IN_MOCO),
    Mutation("MoCo v3: positive is the first image", MOCO_3, "own = own_rows(query)", "own = own_rows(query) * 0", IN_MOCO),
    Mutation("MoCo v3: a view finds itself", MOCO_3, KEYS_3, KEYS_3.replace(DIRECTIONS, "((view_1, key_1), (view_2, key_2))"), IN_MOCO),
    Mutation("MoCo v3: no predictor on one side", MOCO_3, "q = self.predictor(z)", "q = self.predictor(z) if view is view_1 else z", IN_MOCO),
    Mutation("MoCo v3: one direction alone", MOCO_3, "yield Outcome(self.contrast(q, key), ", "yield Outcome(self.contrast(q, key) * (view is view_1), ", IN_MOCO),
    Mutation("MoCo v3: keys of the online network", MOCO_3, "key_1, key_2 = self.target(view_1), self.target(view_2)", "key_1, key_2 = self.project(view_1), self.project(view_2)", IN_MOCO),
    Mutation("MoCo v2: a view finds itself", MOCO, KEYS_2, KEYS_2.replace(DIRECTIONS, "((view_1, key_1), (view_2, key_2))"), IN_MOCO),
    Mutation("Mean Teacher: mean over all images", TEACHER, "(labels != UNLABELLED).sum()", "(labels != -2).sum()", IN_TEACHER),
    Mutation("MoCo: features of any length", METHOD, "F.normalize(upcast(query), dim=1) @", "upcast(query) @", IN_MOCO),
    Mutation("MoCo: temperature multiplied", METHOD, "F.cross_entropy(cosines / temperature", "F.cross_entropy(cosines * temperature", IN_MOCO),
    Mutation("Mean Teacher: dead consistency", TEACHER, "consistency(logits, taught)", "consistency(taught, taught)", IN_TEACHER),
    Mutation("Mean Teacher: student is the teacher", TEACHER, "logits = self.project(view_1)", "logits = 0 * self.project(view_1) + self.target(view_1)", IN_TEACHER),
    Mutation("Mean Teacher: both see one view", TEACHER, "taught = self.target(view_2)", "taught = self.target(view_1)", IN_TEACHER),
    Mutation("Mean Teacher: consistency of logits", TEACHER, "upcast(student).softmax(1) - upcast(teacher).softmax(1)", "upcast(student) - upcast(teacher)", IN_TEACHER),
    Mutation("Mean Teacher: consistency falls with time", TEACHER, "-5 * (1 - done) ** 2", "-5 * done**2", IN_TEACHER),
    Mutation("Mean Teacher: no ramp-up", TEACHER, "math.exp(-5 * (1 - done) ** 2)", "1", IN_TEACHER),
    Mutation("Mean Teacher: unlabelled images classified", TEACHER, "labels, ignore_index=UNLABELLED, reduction", "labels.clamp_min(0), reduction", IN_TEACHER),
    Mutation("Mean Teacher: sign of the consistency", TEACHER, "labels) + self.weight", "labels) - self.weight", IN_TEACHER),
    Mutation("Mean Teacher: gradient through the teacher", TEACHER, ".requires_grad_(False)", "", IN_TEACHER),
    Mutation("Mean Teacher: the student is delivered", TEACHER, "return self.target[0]", "return self.encoder", IN_TEACHER),
    Mutation("Mean Teacher: never told the progress", "toolchain/byolt/training/step.py", "self.method.set_progress(step / self.steps)", "pass", IN_BUILD),
    Mutation("predictor's rate like the rest", "toolchain/byolt/training/step.py", ' * group.get("rate_multiplier", 1.0)', "", IN_BUILD),
    Mutation("SimSiam: predictor's rate decays", "toolchain/byolt/training/step.py", 'self.peak_lr if group.get("constant_rate") else rate', "rate", IN_BUILD),
    Mutation("parts drawn by one seed", SEEDS, "return 3 * seed + part", "return seed", IN_BUILD),
    Mutation("labelled images as others see them", SAMPLER, "(1 + passes) * self.images", "0 * passes", IN_LOADER),
    Mutation("labels of other images", SAMPLER, "labelled.labels[chosen]", "labelled.labels[within]", IN_LOADER),
    Mutation("all labels told", SAMPLER, "np.full(rest, UNLABELLED)", "np.zeros(rest, np.int64)", IN_LOADER),
]  # fmt: skip
