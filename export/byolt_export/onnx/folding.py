"""What a traced module computes of its weights alone is computed at export; BatchNorm goes into convolutions."""

from typing import Any

import torch
from torch import Tensor, fx, nn

_aten = torch.ops.aten
_CONVOLUTIONS = (
    *(_aten.conv1d.default, _aten.conv1d.padding),
    *(_aten.conv2d.default, _aten.conv2d.padding),
    *(_aten.conv3d.default, _aten.conv3d.padding),
)


def fold(traced: fx.GraphModule) -> None:
    """Fold constants, then norms, inside a traced module in eval mode; attention becomes what it is made of."""
    for node in traced.graph.find_nodes(op="call_function", target=_aten.scaled_dot_product_attention.default):
        node.target = _attention
    with torch.no_grad():
        _fold_constants(traced)
        _fold_batchnorm(traced)
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _fold_constants(traced: fx.GraphModule) -> None:
    """Replace by its value what depends on weights alone: kernels that a norm of the weights is part of.

    What is larger than the weights that it is made of stays computed: the file would grow.
    """
    known: dict[fx.Node, Any] = {}
    weights: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in list(traced.graph.nodes):
        if node.op == "get_attr":
            known[node], weights[node] = _value(traced, node), frozenset((node,))
        elif _is_constant(node, known):
            args, kwargs = (fx.map_arg(given, known.__getitem__) for given in (node.args, node.kwargs))
            known[node] = node.target(*args, **kwargs)
            weights[node] = frozenset().union(*(weights[given] for given in node.all_input_nodes))
    for node, value in known.items():
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in known for user in node.users):
            continue
        if value.numel() <= sum(known[weight].numel() for weight in weights[node]):
            node.replace_all_uses_with(_add_weight(traced, node, value))


def _is_constant(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    schema, tags = getattr(node.target, "_schema", None), getattr(node.target, "tags", ())
    return (
        node.op == "call_function"
        and bool(node.all_input_nodes)
        and known.keys() >= set(node.all_input_nodes)
        and not (schema is not None and schema.is_mutable)
        and torch.Tag.nondeterministic_seeded not in tags
    )


def _fold_batchnorm(traced: fx.GraphModule) -> None:
    """Fold each BatchNorm into the convolution before it, in float64.

    On the traced program, not on the modules: there it is plain which convolution feeds which norm and nothing else,
    whatever classes they are of.
    """
    for norm in traced.graph.find_nodes(op="call_function", target=_aten.batch_norm.default):
        conv, weight, bias, mean, var, training, _momentum, eps, _cudnn = norm.args
        if conv.target not in _CONVOLUTIONS or training:
            continue
        kernel, old_bias = conv.args[1], (*conv.args, None)[2]
        if any(len(node.users) != 1 for node in (conv, kernel)):
            continue  # Computed once for two norms; folded, it would be computed twice.
        given = (kernel, mean, var, *(node for node in (weight, bias, old_bias) if node is not None))
        if any(node is None or node.op != "get_attr" for node in given):
            continue
        w, m, v, *_ = (_value(traced, node).double() for node in given)
        scale = (1.0 if weight is None else _value(traced, weight).double()) / torch.sqrt(v + eps)
        before = 0.0 if old_bias is None else _value(traced, old_bias).double()
        offset = (before - m) * scale + (0.0 if bias is None else _value(traced, bias).double())
        dtype = _value(traced, kernel).dtype
        folded = _add_weight(traced, conv, (w * scale.view(-1, *[1] * (w.ndim - 1))).to(dtype), kernel)
        own = bias if bias is not None and len(bias.users) == 1 else None
        conv.args = (conv.args[0], folded, _add_weight(traced, conv, offset.to(dtype), own), *conv.args[3:])
        norm.replace_all_uses_with(conv)
        traced.graph.erase_node(norm)


def _value(traced: fx.GraphModule, node: fx.Node) -> Any:
    """What a node of the kind ``get_attr`` reads."""
    value: Any = traced
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value


def _add_weight(traced: fx.GraphModule, before: fx.Node, value: Tensor, instead_of: fx.Node | None = None) -> fx.Node:
    """A weight, read before a node: a new one, or in place and under the name of one that is read by nothing else."""
    target = f"folded_{sum(name.startswith('folded_') for name, _ in traced.named_parameters(recurse=False))}"
    target = target if instead_of is None else str(instead_of.target)
    owner, _, name = target.rpartition(".")
    weight = nn.Parameter(value.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
    setattr(traced.get_submodule(owner), name, weight)
    with traced.graph.inserting_before(before):
        return traced.graph.get_attr(target)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, _dropout_p: float = 0.0, is_causal: bool = False,
    *, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Attention as products, a sum and a softmax: torch's exporter takes queries of four axes alone."""
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = (q * (scale or q.shape[-1] ** -0.5)) @ k.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ v
