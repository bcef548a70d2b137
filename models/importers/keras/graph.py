"""A Keras model's configuration as a graph: how its layers are connected, and which give mu and log-variance.

It reads Functional and Sequential models, also nested, as written by Keras 2 and Keras 3. Custom layers have a place in
the graph but no meaning: they may stand after the heads, not before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.spec import BundleError

MU_NAMES = ("zmean", "meanz", "mu", "zmu", "latentmean", "latentmu")
LOGVAR_NAMES = ("zlogvar", "logvarz", "logvar", "zlogvariance", "logvariance", "latentlogvar", "latentlogvariance")

NO_LOGVAR = "none"
"""Given instead of a layer's name: the encoder has no log-variance."""

_MODELS = ("Functional", "Model", "Sequential")
_JOINING = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot", "Operation",
            "Attention", "AdditiveAttention", "MultiHeadAttention", "TFOpLambda", "SlicingOpLambda")  # fmt: skip
"""Keras' own layers that take two tensors and are not sampling layers."""

_LAYERS = 2000


@dataclass(frozen=True, slots=True)
class Node:
    """One layer of the graph.

    Attributes:
        name: its own name after those of the models that contain it: `backbone/conv3d`.
        kind: its class, such as `Conv3D`.
        own: whether the class belongs to Keras itself, as far as the file tells.
        config: configuration of the layer.
        inputs: names of the nodes whose outputs it takes.
        address: its place in a weights file that numbers layers by class: `layers/conv3d_1`.
        calls: number of times the model uses it.
    """

    name: str
    kind: str
    own: bool
    config: Mapping[str, Any]
    inputs: tuple[str, ...]
    address: str
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Graph:
    """A model's layers, with nested models expanded.

    Attributes:
        nodes: each after the nodes that it takes its input from.
        outputs: names of the model's output nodes, in order.
        labels: (key, node) of each output that a model, or a nested one, names in a dictionary, as `{"z_mean": …}`.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    labels: tuple[tuple[str, str], ...] = ()


def is_described(config: Mapping[str, Any]) -> bool:
    """Return whether the configuration says how the layers are connected; that of a subclassed model does not."""
    return config.get("class_name") in _MODELS and isinstance(_config(config).get("layers"), list)


def parse_graph(config: Mapping[str, Any]) -> Graph:
    """Return the graph of a model that `is_described`.

    Raises:
        BundleError: the configuration makes no sense.
    """
    labels: list[tuple[str, str]] = []
    nodes, outputs = _expand(config, "", "", None, labels)
    names = [node.name for node in nodes]
    if len(set(names)) != len(names) or len(names) > _LAYERS:
        raise BundleError(
            f"the model has {len(names)} layers, or two of one name; expected at most {_LAYERS}, each its own"
        )
    return Graph(tuple(nodes), tuple(outputs), tuple(labels))


def _expand(
    model: Mapping[str, Any], prefix: str, address: str, feeds: Sequence[str] | None, labels: list[tuple[str, str]]
) -> tuple[list[Node], list[str]]:
    """Return a model's nodes and the names of its outputs.

    Args:
        model: its configuration.
        prefix: prefix of its layers' names.
        address: address of its weights.
        feeds: inputs of a nested model.
        labels: labels of the `Graph`; its own are added.
    """
    config = _config(model)
    layers = [_checked(entry) for entry in config.get("layers") or ()]
    sequential = model["class_name"] == "Sequential"
    given = [name for name, _ in _references(config.get("input_layers"))]
    nodes: list[Node] = []
    outputs: dict[tuple[str, int], str] = {}
    counts: dict[str, int] = {}
    last = feeds[0] if feeds else ""
    if sequential and not feeds and not (layers and layers[0]["class_name"] == "InputLayer"):
        nodes.append(_first_input(config, layers, prefix))
        last = nodes[0].name
    for entry in layers:
        kind, own_name = entry["class_name"], _layer_name(entry)
        place = f"{address}layers/{_numbered(_snake_case(kind), counts)}"
        calls = [] if sequential else _calls(entry)
        first_call = calls[0] if calls else []
        taken = [last] if sequential else [outputs.get(key, f"{prefix}{key[0]}:{key[1]}") for key in first_call]
        if kind == "InputLayer" and feeds is not None:
            at = given.index(own_name) if own_name in given else 0
            outputs[own_name, 0] = last = feeds[min(at, len(feeds) - 1)]
            continue
        if kind in _MODELS and isinstance(_config(entry).get("layers"), list) and len(calls) <= 1:
            inner, ends = _expand(entry, f"{prefix}{own_name}/", f"{place}/", taken or [""], labels)
            nodes += inner
            outputs.update({(own_name, number): end for number, end in enumerate(ends)})
            last = ends[0] if ends else ""
            continue
        inputs = () if kind == "InputLayer" else tuple(taken)
        node = Node(f"{prefix}{own_name}", kind, _is_keras(entry), _config(entry), inputs, place, max(1, len(calls)))
        nodes.append(node)
        outputs[own_name, 0] = last = node.name
    if sequential:
        return nodes, [last]
    given_out: Any = config.get("output_layers")
    keys = sorted(given_out) if isinstance(given_out, dict) else []  # Keras numbers a dictionary's outputs by its keys
    references = _references([given_out[key] for key in keys] if keys else given_out)
    ends = [outputs.get(key, f"{prefix}{key[0]}:{key[1]}") for key in references]
    if len(keys) == len(ends):
        labels += zip(keys, ends, strict=True)
    return nodes, ends


def _first_input(config: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], prefix: str) -> Node:
    """Return the input that a Sequential model does not list."""
    first = _config(layers[0]) if layers else {}
    shape = first.get("batch_input_shape") or first.get("batch_shape") or config.get("build_input_shape")
    return Node(f"{prefix}input", "InputLayer", True, {"batch_shape": shape}, (), "")


def _calls(entry: Mapping[str, Any]) -> list[list[tuple[str, int]]]:
    """Return, for each use of a layer, the tensors it is given."""
    nodes = entry.get("inbound_nodes") or []
    if not isinstance(nodes, list):
        raise BundleError(f"layer {_layer_name(entry)!r} has inbound_nodes that are not a list; save the model again")
    return [_references(node) for node in nodes]


def _references(value: Any) -> list[tuple[str, int]]:
    """Return (layer, index of its output) of each tensor in a piece of a configuration, in order.

    Keras 3: {"class_name": "__keras_tensor__", "config": {"keras_history": [layer, call, output]}}; Keras 2, and the
    ends of a model: [layer, call, output] or [layer, call, output, {}].
    """
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            return _references(_config(value).get("keras_history"))
        return [found for key in value for found in _references(value[key])]
    if not isinstance(value, list):
        return []
    if 3 <= len(value) <= 4 and isinstance(value[0], str) and type(value[1]) is int and type(value[2]) is int:
        return [(value[0], value[2])]
    return [found for inner in value for found in _references(inner)]


def find_heads(graph: Graph, mu: str | None, logvar: str | None) -> tuple[str, str | None]:
    """Return the layers whose outputs are mu and log-variance; None where the encoder has no log-variance.

    They are the layers given; else those with the usual names, of layers or of the model's outputs; else the inputs of
    the sampling layer: a Lambda or unknown class with two inputs. If names and a sampling layer contradict each other,
    neither counts. There is no log-variance if `NO_LOGVAR` is given, or mu is the model's only output.

    Raises:
        BundleError: they cannot be determined.
    """
    found_mu = _named(graph, mu, MU_NAMES)
    found_logvar = None if logvar == NO_LOGVAR else _named(graph, logvar, LOGVAR_NAMES)
    pairs = {node.inputs for node in graph.nodes if node.kind not in _JOINING and len(node.inputs) == 2}
    if len(pairs) == 1 and logvar != NO_LOGVAR and not (mu and logvar):
        found_mu, found_logvar = _as_sampled(*pairs.pop(), (mu, logvar), (found_mu, found_logvar))
    mean_alone = logvar == NO_LOGVAR or (not pairs and graph.outputs == (found_mu,))
    if found_mu is not None and found_logvar is None and mean_alone:
        return found_mu, None
    if found_mu is None or found_logvar is None or found_mu == found_logvar:
        raise BundleError(_heads_wanted(graph, found_mu, found_logvar, logvar))
    return found_mu, found_logvar


def _as_sampled(
    first: str, second: str, given: tuple[str | None, str | None], named: tuple[str | None, str | None]
) -> tuple[str | None, str | None]:
    """Return (mu, log-variance) if a sampling layer takes `first` and `second`."""
    if given == (None, None) and None not in named:
        return named if set(named) == {first, second} else (None, None)
    # A second input called sigma or std may not be a log-variance: the user must say, ctvae does not guess.
    sure = not re.search(r"sigma|std|dev|scale", second.lower().rpartition("/")[2])
    if given == (None, None):
        return (first, second) if sure else (None, None)
    if given[0] is not None:
        return named[0], named[1] or (second if sure and named[0] == first else None)
    return named[0] or (first if named[1] == second else None), named[1]


def _heads_wanted(graph: Graph, mu: str | None, logvar: str | None, given_logvar: str | None) -> str:
    """Return the request to name the heads, with what is known already."""
    dense = ", ".join(node.name for node in graph.nodes if node.kind == "Dense")[-160:]
    if mu is not None and mu == logvar:
        return f"{mu} cannot be both mu and log-variance; give --mu NAME --logvar NAME (Dense layers: {dense})"
    if mu is None and given_logvar is not None:
        return f"which layer gives mu is unclear; give --mu NAME (Dense layers: {dense})"
    if mu is not None and logvar is None:
        return (
            "which layer gives the log-variance is unclear; give --logvar NAME, or --logvar none if the encoder has "
            f"none (mu: {mu}; Dense layers: {dense})"
        )
    return f"which layers give mu and log-variance is unclear; give --mu NAME --logvar NAME (Dense layers: {dense})"


def _named(graph: Graph, wanted: str | None, usual: Sequence[str]) -> str | None:
    """Return the only node with this name or a usual name: its own, or that of the model's output."""
    names = [*((node.name, node.name) for node in graph.nodes), *graph.labels]
    if wanted is not None:
        found = {node for name, node in names if wanted in (name, name.rpartition("/")[2])}
        if len(found) != 1:
            known = ", ".join(node.name for node in graph.nodes)[-200:]
            raise BundleError(f"{len(found)} layers are called {_short(wanted)}; expected one of … {known}")
        return found.pop()
    found = {node for name, node in names if re.sub(r"[^a-z]", "", name.rpartition("/")[2].lower()) in usual}
    return found.pop() if len(found) == 1 else None


def on_the_way(nodes: Sequence[Node], ends: Sequence[str]) -> tuple[Node, ...]:
    """Return the nodes that `ends` depend on, in order, without branches that lead nowhere.

    Raises:
        BundleError: a layer's input comes from no layer before it, or a layer is used more than once.
    """
    by_name = {node.name: (number, node) for number, node in enumerate(nodes)}
    needed: dict[str, int] = {}
    stack = list(ends)
    while stack:
        name = stack.pop()
        if name in needed:
            continue
        if name not in by_name:
            raise BundleError(f"the model takes {_short(name)} from no layer that it has before; save the model again")
        number, node = by_name[name]
        if any(by_name.get(source, (-1, None))[0] >= number for source in node.inputs):
            raise BundleError(f"layer {_short(name)} takes its input from a layer after it; save the model again")
        if node.calls > 1:
            raise BundleError(f"layer {_short(name)} is used {node.calls} times; expected a layer for each use")
        needed[name] = number
        stack += node.inputs
    return tuple(node for node in nodes if node.name in needed)


def _checked(entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        raise BundleError(f"the model lists {_short(entry)} as a layer; save the model again")
    return entry


def _layer_name(entry: Mapping[str, Any]) -> str:
    name = entry.get("name") or _config(entry).get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise BundleError(f"a layer of class {_short(entry['class_name'])} has no name; save the model again")
    return name


def _is_keras(entry: Mapping[str, Any]) -> bool:
    """Return whether the class is Keras' own, as far as the file tells; others have a module or a registered name."""
    module, registered = entry.get("module"), entry.get("registered_name")
    of_keras = module is None or (
        isinstance(module, str) and module.split(".")[0] in ("keras", "tf_keras", "tensorflow")
    )
    return of_keras and registered is None and ">" not in entry["class_name"]


def _config(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    config = entry.get("config")
    return config if isinstance(config, dict) else {}


def _numbered(name: str, counts: dict[str, int]) -> str:
    """Return `conv3d`, `conv3d_1`, …: Keras' names for layers of one class in a weights file."""
    number = counts[name] = counts.get(name, -1) + 1
    return f"{name}_{number}" if number else name


def _snake_case(name: str) -> str:
    """Return `MaxPooling3D` as `max_pooling3d`, by the rule of `keras.src.utils.naming.to_snake_case`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _short(value: Any) -> str:
    return repr(value)[:80]


def shapes_of_inputs(nodes: Sequence[Node]) -> Iterator[tuple[Node, Any]]:
    """Yield each input and its declared shape, batch size first."""
    for node in nodes:
        if node.kind == "InputLayer":
            yield node, node.config.get("batch_shape") or node.config.get("batch_input_shape")
