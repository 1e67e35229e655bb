"""What a traced module computes of its weights alone is computed at export; BatchNorm goes into convolutions."""

from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
_CONVOLUTIONS = (
    *(_aten.conv1d.default, _aten.conv1d.padding),
    *(_aten.conv2d.default, _aten.conv2d.padding),
    *(_aten.conv3d.default, _aten.conv3d.padding),
)


def fold(traced: fx.GraphModule) -> None:
    """Fold constants, then norms, inside a traced module in eval mode."""
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
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
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
        if conv.target not in _CONVOLUTIONS or len(conv.users) != 1 or training:
            continue
        kernel, old_bias = conv.args[1], (*conv.args, None)[2]
        given = (kernel, mean, var, *(node for node in (weight, bias, old_bias) if node is not None))
        if any(node is None or node.op != "get_attr" for node in given):
            continue
        w, m, v, *_ = (_value(traced, node).double() for node in given)
        scale = (1.0 if weight is None else _value(traced, weight).double()) / torch.sqrt(v + eps)
        before = 0.0 if old_bias is None else _value(traced, old_bias).double()
        offset = (before - m) * scale + (0.0 if bias is None else _value(traced, bias).double())
        dtype = _value(traced, kernel).dtype
        folded = _add_weight(traced, conv, (w * scale.view(-1, *[1] * (w.ndim - 1))).to(dtype))
        conv.args = (conv.args[0], folded, _add_weight(traced, conv, offset.to(dtype)), *conv.args[3:])
        norm.replace_all_uses_with(conv)
        traced.graph.erase_node(norm)


def _value(traced: fx.GraphModule, node: fx.Node) -> Any:
    """What a node of the kind ``get_attr`` reads."""
    value: Any = traced
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value


def _add_weight(traced: fx.GraphModule, before: fx.Node, value: Tensor) -> fx.Node:
    """A new weight, read before a node."""
    name = f"folded_{len(traced.graph.nodes)}"
    traced.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
    with traced.graph.inserting_before(before):
        return traced.graph.get_attr(name)
