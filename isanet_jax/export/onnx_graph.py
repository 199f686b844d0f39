"""A JAX function as an ONNX graph: a walk over its jaxpr, an operation or a few for each primitive.

What the networks of this package are made of is known; another primitive is refused by its name.
Parameters are constants, and what follows from constants alone is computed here and not there.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from isanet_jax.errors import ConfigError

OPSET = 18
_IR_VERSION = 9  # of onnx 1.14, 2023: what reads the operations above reads it
_SAME = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min"},
    **{"neg": "Neg", "exp": "Exp", "log": "Log", "tanh": "Tanh", "sqrt": "Sqrt", "abs": "Abs"},
    **{"floor": "Floor", "logistic": "Sigmoid", "pow": "Pow"},
    **{"ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "eq": "Equal"},
    **{"and": "And", "or": "Or", "not": "Not"},
}
_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
_IDENTITIES = ("stop_gradient", "name", "copy", "copy_p", "optimization_barrier")
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint")
_MANY = 2**16  # elements from which a constant that is repeated is not stored repeated


class _Tensor(NamedTuple):
    """A value that is known when the graph runs.

    Attributes:
        name: in the graph.
        shape: as JAX has it.
        dtype: NumPy's.
        stored: its shape in the graph, which differs where it is one along an axis and stands for
            as many as there are: ONNX's operations repeat it themselves.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stored: tuple[int, ...]


def to_onnx(
    function: Callable, inputs: Mapping[str, tuple[int, ...]], output: str
) -> onnx.ModelProto:
    """The ONNX model of a function.

    Args:
        function: name -> float32 array, to one array; whatever it closes over is a constant.
        inputs: name -> shape, fixed.
        output: the result's name.

    Raises:
        ConfigError: the function is made of a primitive that is not known here.
    """
    given = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in inputs.items()}
    closed = jax.make_jaxpr(function)(given)
    graph = _Graph()
    # JAX takes a dict apart in the order of its names.
    values = [
        _Tensor(name, tuple(inputs[name]), np.dtype(np.float32), tuple(inputs[name]))
        for name in sorted(inputs)
    ]
    (result,) = graph.run(closed, values)
    graph.nodes.append(helper.make_node("Identity", [graph.name_of(result)], [output]))
    shape, dtype = closed.out_avals[0].shape, closed.out_avals[0].dtype
    found = helper.make_graph(
        graph.nodes,
        "network",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, inputs[n]) for n in inputs],
        [helper.make_tensor_value_info(output, _type_of(dtype), shape)],
        graph.initializers,
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(found, opset_imports=[opset], ir_version=_IR_VERSION)


def _type_of(dtype):
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class _Graph:
    """The graph as it grows."""

    def __init__(self):
        self.nodes, self.initializers = [], []
        self._numbers = itertools.count()
        self._names = {}  # constants that are there already

    def run(self, closed, values) -> list:
        """Walks over a jaxpr; `values` of its inputs are tensors, or arrays that are known now."""
        jaxpr = closed.jaxpr
        known = dict(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
        known |= dict(zip(jaxpr.invars, values, strict=True))

        def value_of(atom):
            return np.asarray(atom.val) if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            operands = [value_of(atom) for atom in equation.invars]
            results = self._equation(equation, operands)
            known |= dict(zip(equation.outvars, results, strict=True))
        return [value_of(atom) for atom in jaxpr.outvars]

    def _equation(self, equation, operands):
        name, params = equation.primitive.name, equation.params
        if name in _CALLS or name.startswith("remat"):
            inner = next(
                params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params
            )
            if not hasattr(inner, "consts"):
                inner = jax.extend.core.ClosedJaxpr(inner, ())
            return self.run(inner, operands)
        if name in _IDENTITIES:
            return operands
        outs = [(tuple(out.aval.shape), np.dtype(out.aval.dtype)) for out in equation.outvars]
        repeats = name == "broadcast_in_dim" and math.prod(outs[0][0]) > _MANY
        if not repeats and all(isinstance(x, np.ndarray) for x in operands):
            found = equation.primitive.bind(*operands, **params)
            many = equation.primitive.multiple_results
            return [np.asarray(x) for x in (found if many else [found])]
        if name in _SAME:
            return [self._elementwise(_SAME[name], operands, *outs[0])]
        rule = getattr(self, f"_{name}", None)
        if name in _REDUCTIONS:
            return [self._reduce(_REDUCTIONS[name], operands[0], params["axes"], outs[0])]
        if rule is None:
            raise ConfigError(f"the network uses {name!r}, which is not exported to ONNX")
        found = rule(operands, params, outs)
        return found if isinstance(found, list) else [found]

    # Names and nodes.

    def name_of(self, value) -> str:
        """The name of a value, as large as it is stored: operations repeat it themselves."""
        return self._constant(value) if isinstance(value, np.ndarray) else value.name

    def _constant(self, array):
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            name = f"c{next(self._numbers)}"
            self.initializers.append(numpy_helper.from_array(array, name))
            self._names[key] = name
        return self._names[key]

    def _numbers_of(self, values):
        """A constant of whole numbers, as shapes and axes are given."""
        return self._constant(np.array(values, np.int64))

    def _node(self, operation, names, shape, dtype, **attributes) -> _Tensor:
        out = f"v{next(self._numbers)}"
        self.nodes.append(helper.make_node(operation, names, [out], **attributes))
        return _Tensor(out, tuple(shape), np.dtype(dtype), tuple(shape))

    def _whole(self, value) -> str:
        """The name of a value that is stored as large as it is."""
        if isinstance(value, np.ndarray) or value.stored == value.shape:
            return self.name_of(value)
        shape = self._numbers_of(value.shape)
        return self._node("Expand", [value.name, shape], value.shape, value.dtype).name

    def _reshaped(self, value, shape) -> _Tensor:
        names = [self._whole(value), self._numbers_of(shape)]
        return self._node("Reshape", names, shape, value.dtype)

    def _transposed(self, value, order) -> _Tensor | np.ndarray:
        order = [int(axis) for axis in order]
        if isinstance(value, np.ndarray):
            return value.transpose(order)
        shape = [value.shape[axis] for axis in order]
        if order == sorted(order):
            return value
        return self._node("Transpose", [self._whole(value)], shape, value.dtype, perm=order)

    def _sliced(self, value, starts, ends, steps=None) -> _Tensor | np.ndarray:
        steps = steps or [1] * len(starts)
        if isinstance(value, np.ndarray):
            return value[tuple(map(slice, starts, ends, steps))]
        shape = [
            -(-(end - start) // step) for start, end, step in zip(starts, ends, steps, strict=True)
        ]
        axes = [i for i, (a, b) in enumerate(zip(shape, value.shape, strict=True)) if a != b]
        if not axes:
            return value
        some = [[bounds[i] for i in axes] for bounds in (starts, ends)]
        names = [self._whole(value), *map(self._numbers_of, (*some, axes))]
        names.append(self._numbers_of([steps[i] for i in axes]))
        return self._node("Slice", names, shape, value.dtype)

    def _joined(self, values, axis, shape) -> _Tensor:
        names = [self._whole(value) for value in values]
        return self._node("Concat", names, shape, values[0].dtype, axis=int(axis))

    # Elementwise.

    def _elementwise(self, operation, operands, shape, dtype):
        shapes = [x.shape if isinstance(x, np.ndarray) else x.stored for x in operands]
        names = [self.name_of(x) for x in operands]
        found = self._node(operation, names, shape, dtype)
        return found._replace(stored=np.broadcast_shapes(*shapes))

    def _square(self, operands, _, outs):
        return self._elementwise("Mul", [operands[0], operands[0]], *outs[0])

    def _integer_pow(self, operands, params, outs):
        exponent = np.array(params["y"], outs[0][1])
        return self._elementwise("Pow", [operands[0], exponent], *outs[0])

    def _rsqrt(self, operands, _, outs):
        root = self._elementwise("Sqrt", operands, *outs[0])
        return self._elementwise("Reciprocal", [root], *outs[0])

    def _expm1(self, operands, _, outs):
        power = self._elementwise("Exp", operands, *outs[0])
        return self._elementwise("Sub", [power, np.ones((), outs[0][1])], *outs[0])

    def _select_n(self, operands, _, outs):
        which, *cases = operands
        if which.dtype != bool or len(cases) != 2:
            raise ConfigError("select_n of more than two cases is not exported to ONNX")
        return self._elementwise("Where", [which, cases[1], cases[0]], *outs[0])

    def _clamp(self, operands, _, outs):
        low, x, high = operands
        above = self._elementwise("Max", [x, low], *outs[0])
        return self._elementwise("Min", [above, high], *outs[0])

    def _convert_element_type(self, operands, _, outs):
        (x,), (shape, dtype) = operands, outs[0]
        if x.dtype == dtype:
            return x
        found = self._node("Cast", [x.name], shape, dtype, to=_type_of(dtype))
        return found._replace(stored=x.stored)

    # Shapes.

    def _broadcast_in_dim(self, operands, params, outs):
        (x,), (shape, dtype) = operands, outs[0]
        stored = [1] * len(shape)
        sizes = x.shape if isinstance(x, np.ndarray) else x.stored
        for axis, size in zip(params["broadcast_dimensions"], sizes, strict=True):
            stored[axis] = size
        if isinstance(x, np.ndarray):
            small = _Tensor(self._constant(x.reshape(stored)), shape, dtype, tuple(stored))
            return small
        if tuple(stored) == x.stored:
            return x._replace(shape=shape)
        unrepeated = x._replace(shape=x.stored)
        return self._reshaped(unrepeated, stored)._replace(shape=shape)

    def _reshape(self, operands, _, outs):
        return self._reshaped(operands[0], outs[0][0])

    _squeeze = _reshape
    _expand_dims = _reshape

    def _transpose(self, operands, params, _):
        return self._transposed(operands[0], params["permutation"])

    def _slice(self, operands, params, _):
        steps = params["strides"] and list(params["strides"])
        starts, ends = list(params["start_indices"]), list(params["limit_indices"])
        return self._sliced(operands[0], starts, ends, steps)

    def _unstack(self, operands, params, outs):  # from JAX 0.12 on, of a loop over an array
        axis = params["axis"]
        kept = [((*shape[:axis], 1, *shape[axis:]), dtype) for shape, dtype in outs]
        parts = self._split(operands, params, kept)
        return [self._reshaped(x, shape) for x, (shape, _) in zip(parts, outs, strict=True)]

    def _split(self, operands, params, outs):
        (x,), axis = operands, params["axis"]
        ends = list(itertools.accumulate(shape[axis] for shape, _ in outs))
        parts = []
        for first, last in zip([0, *ends[:-1]], ends, strict=True):
            starts, stops = [0] * len(x.shape), list(x.shape)
            starts[axis], stops[axis] = first, last
            parts.append(self._sliced(x, starts, stops))
        return parts

    def _concatenate(self, operands, params, outs):
        return self._joined(operands, params["dimension"], outs[0][0])

    def _stack(self, operands, params, outs):
        shape, axis = list(outs[0][0]), params["axis"]
        shape[axis] = 1
        return self._joined([self._reshaped(x, shape) for x in operands], axis, outs[0][0])

    def _tile(self, operands, params, outs):
        names = [self._whole(operands[0]), self._numbers_of(params["reps"])]
        return self._node("Tile", names, *outs[0])

    def _pad(self, operands, params, outs):
        x, value = operands
        config = params["padding_config"]
        if any(between or before < 0 or after < 0 for before, after, between in config):
            raise ConfigError("padding within an array or below 0 is not exported to ONNX")
        pads = [before for before, _, _ in config] + [after for _, after, _ in config]
        names = [self._whole(x), self._numbers_of(pads), self.name_of(value)]
        return self._node("Pad", names, *outs[0])

    # Sums.

    def _reduce(self, operation, x, axes, out):
        """Axis by axis: a single float32 sum over millions of voxels would lose four digits."""
        shape, dtype = out
        for axis in sorted(axes, reverse=True):
            shape = x.shape[:axis] + x.shape[axis + 1 :]
            names = [self._whole(x), self._numbers_of([axis])]
            x = self._node(operation, names, shape, dtype, keepdims=0)
        return x

    def _reduce_or(self, operands, params, outs):
        (x,), (shape, dtype) = operands, outs[0]
        number = np.dtype(np.int32)
        whole = self._node("Cast", [self._whole(x)], x.shape, number, to=_type_of(number))
        largest = self._reduce("ReduceMax", whole, params["axes"], (shape, number))
        return self._node("Cast", [largest.name], shape, dtype, to=_type_of(dtype))

    def _dot_general(self, operands, params, outs):
        (left, right), (shape, dtype) = operands, outs[0]
        (of_left, of_right), (batch_left, batch_right) = params["dimension_numbers"]
        batch = len(batch_left)
        rank, is_plain = len(left.shape), tuple(batch_left) == tuple(batch_right)
        is_plain &= tuple(batch_left) == tuple(range(batch)) and tuple(of_left) == (rank - 1,)
        is_plain &= tuple(of_right) == (batch,) and len(right.shape) == batch + 2
        names = [self._whole(left), self._whole(right)]
        if is_plain and (not batch or rank == batch + 2):
            return self._node("MatMul", names, shape, dtype)
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        of = [[next(letters) for _ in left.shape], [next(letters) for _ in right.shape]]
        for a, b in zip((*of_left, *batch_left), (*of_right, *batch_right), strict=True):
            of[1][b] = of[0][a]
        kept = [of[0][i] for i in batch_left]
        for side, gone in ((0, (*of_left, *batch_left)), (1, (*of_right, *batch_right))):
            kept += [letter for i, letter in enumerate(of[side]) if i not in gone]
        equation = f"{''.join(of[0])},{''.join(of[1])}->{''.join(kept)}"
        return self._node("Einsum", names, shape, dtype, equation=equation)

    # Convolutions.

    def _conv_general_dilated(self, operands, params, outs):
        numbers, (shape, _) = params["dimension_numbers"], outs[0]
        x = self._transposed(operands[0], numbers.lhs_spec)
        kernel = self._transposed(operands[1], numbers.rhs_spec)
        channels_first = tuple(shape[axis] for axis in numbers.out_spec)
        if params["batch_group_count"] != 1 or not isinstance(kernel, np.ndarray):
            raise ConfigError("a convolution by what is no parameter is not exported to ONNX")
        if set(params["lhs_dilation"]) == {1}:
            found = self._conv(x, kernel, params, params["padding"], channels_first)
        else:
            found = self._conv_of_spread(x, kernel, params, channels_first)
        return self._transposed(found, np.argsort(numbers.out_spec))

    def _conv(self, x, kernel, params, padding, shape):
        if min(itertools.chain(*padding)) < 0:
            raise ConfigError("a convolution with padding below 0 is not exported to ONNX")
        pads = [before for before, _ in padding] + [after for _, after in padding]
        return self._node(
            "Conv",
            [self._whole(x), self.name_of(kernel)],
            shape,
            x.dtype,
            kernel_shape=list(kernel.shape[2:]),
            pads=pads,
            strides=list(params["window_strides"]),
            dilations=list(params["rhs_dilation"]),
            group=params["feature_group_count"],
        )

    def _conv_of_spread(self, x, kernel, params, shape):
        """A transposed convolution by parity: each of a stride's remainders sees its own taps.

        Along an axis of stride s, output s q + r sees input q + m + shift through tap t + s m, with
        t the first tap that falls on a voxel and not between two.
        """
        steps, sizes = params["lhs_dilation"], shape[2:]
        if set(params["window_strides"]) | set(params["rhs_dilation"]) != {1}:
            raise ConfigError("a transposed convolution of this kind is not exported to ONNX")
        if any(size % step for size, step in zip(sizes, steps, strict=True)):
            raise ConfigError("a transposed convolution to an odd size is not exported to ONNX")
        inner = [size // step for size, step in zip(sizes, steps, strict=True)]
        parts = []
        for remainders in itertools.product(*map(range, steps)):
            taps, padding = [], []
            for axis, r in enumerate(remainders):
                step, before = steps[axis], params["padding"][axis][0]
                first = (before - r) % step
                shift = (r - before + first) // step
                taps.append(slice(first, None, step))
                count = len(range(first, kernel.shape[2 + axis], step))
                after = inner[axis] + shift + count - 1 - x.shape[2 + axis]
                padding.append((-shift, after))
            part = kernel[(slice(None), slice(None), *taps)]
            parts.append(self._conv(x, part, params, padding, (*shape[:2], *inner)))
        # (remainders of D, H, W, N, C, D, H, W) -> every remainder beside its voxel.
        joined = self._joined(
            [self._reshaped(part, (1, *part.shape)) for part in parts],
            0,
            (len(parts), *parts[0].shape),
        )
        apart = self._reshaped(joined, (*steps, *shape[:2], *inner))
        d = len(steps)
        order = [d, d + 1, *itertools.chain(*((d + 2 + i, i) for i in range(d)))]
        return self._reshaped(self._transposed(apart, order), shape)

    # A box at a place that the network finds: of a batch of one.

    def _starts(self, indices, axes, limits):
        """Starts along all axes (int64), within what is there, from those along some."""
        rank = len(limits)
        flat = self._reshaped(indices, (len(axes),))
        whole = self._node("Cast", [flat.name], flat.shape, np.int64, to=TensorProto.INT64)
        place = np.zeros((len(axes), rank), np.int64)
        place[np.arange(len(axes)), list(axes)] = 1
        row = self._reshaped(whole, (1, len(axes)))
        spread = self._node("MatMul", [row.name, self._constant(place)], (1, rank), np.int64)
        spread = self._reshaped(spread, (rank,))
        most, least = self._numbers_of(limits), self._numbers_of([0] * rank)
        clipped = self._node("Min", [spread.name, most], (rank,), np.int64)
        return self._node("Max", [clipped.name, least], (rank,), np.int64)

    def _gather(self, operands, params, outs):
        (x, indices), (shape, dtype) = operands, outs[0]
        numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
        is_box = math.prod(indices.shape[:-1]) == 1 and "CLIP" in str(params["mode"])
        if not is_box or len(sizes) != len(x.shape) or math.prod(sizes) != math.prod(shape):
            raise ConfigError("gather of more than one box is not exported to ONNX")
        limits = [a - b for a, b in zip(x.shape, sizes, strict=True)]
        starts = self._starts(indices, numbers.start_index_map, limits)
        sizes = self._numbers_of(sizes)
        ends = self._node("Add", [starts.name, sizes], starts.shape, np.int64)
        axes = self._numbers_of(range(len(x.shape)))
        box = self._node("Slice", [self._whole(x), starts.name, ends.name, axes], shape, dtype)
        return self._reshaped(box, shape)

    def _scatter(self, operands, params, outs):
        (x, indices, update), (shape, dtype) = operands, outs[0]
        numbers = params["dimension_numbers"]
        is_box = math.prod(indices.shape[:-1]) == 1 and "CLIP" in str(params["mode"])
        if not is_box or len(update.shape) != len(shape):
            raise ConfigError("scatter of more than one box is not exported to ONNX")
        limits = [a - b for a, b in zip(shape, update.shape, strict=True)]
        starts = self._starts(indices, numbers.scatter_dims_to_operand_dims, limits)
        rest = self._numbers_of(limits)
        after = self._node("Sub", [rest, starts.name], starts.shape, np.int64)
        pads = self._joined([starts, after], 0, (2 * len(shape),))
        inside = np.ones((1,) * len(shape), np.float32)
        inside = self._whole(_Tensor(self._constant(inside), update.shape, dtype, inside.shape))
        one = self._node("Pad", [inside, pads.name], shape, np.float32)
        placed = self._node("Pad", [self._whole(update), pads.name], shape, dtype)
        half = self._constant(np.array(0.5, np.float32))
        is_inside = self._node("Greater", [one.name, half], shape, bool)
        return self._elementwise("Where", [is_inside, placed, x], shape, dtype)
