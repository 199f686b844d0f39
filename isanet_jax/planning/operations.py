"""What a function compiled for a GPU consists of, read from its text: calls, bytes, operations.

XLA counts operations before it optimises, and says nothing of bytes for a card that is not
attached. Its text says what runs: each instruction of the entry computation is a kernel, or a
library's call, that reads its operands from memory and writes its results there.
"""

import math
import re
from typing import NamedTuple

from isanet_jax.training.cost import named_arrays

_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)")
# These name arrays, and move nothing.
_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all")
_CONVOLUTIONS = {
    "__cudnn$convForward": "convolution",
    "__cudnn$convBiasActivationForward": "convolution",
    "__cudnn$convBackwardInput": "convolution, gradient of the input",
    "__cudnn$convBackwardFilter": "convolution, gradient of the kernel",
}
# Words in a fusion's name, the first that is there counts.
_FUSIONS = {
    "gemm": "matrix product",
    "scatter": "scatter",
    "transpose": "transpose",
    "reduce": "sum or maximum",
    "slice": "slice",
    "copy": "copy",
}


class Operations(NamedTuple):
    """Those of one kind, in one call of the function.

    Attributes:
        calls: kernels, or calls of a library.
        bytes: that they read and write, each operand and result counted whole.
        flops: of convolutions and matrix products; 0 for others.
    """

    calls: int
    bytes: int
    flops: float


class Convolution(NamedTuple):
    """A call of cuDNN: its kind, window, and the order of its axes, as in `b012f_o012i->b012f`."""

    kind: str
    window: tuple[int, ...]
    layout: str


def convolutions(text: str) -> list[Convolution]:
    """The calls of cuDNN in a compiled function's text."""
    found = []
    for line in text.splitlines():
        target = re.search(r'custom_call_target="(__cudnn\$conv\w+)"', line)
        if target:
            layout = re.search(r"dim_labels=([\w\->?]+)", line)
            found.append(
                Convolution(_CONVOLUTIONS[target[1]], _window(line), layout[1] if layout else "")
            )
    return found


def operations(text: str) -> dict[str, Operations]:
    """Kind -> its operations, in a compiled function's text, most bytes first."""
    products = _products(text)
    sizes, shapes, totals = {}, {}, {}
    for line in text[text.index("\nENTRY") :].splitlines():
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        name, result, code, rest = match.groups()
        arrays = named_arrays(result)
        shapes[name] = [shape for shape, _ in arrays]
        sizes[name] = sum(size for _, size in arrays)
        if code in _FREE:
            continue
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        kind, flops = _kind(name, code, line), 0.0
        if kind.startswith("convolution"):
            given = [shapes.get(operand) for operand in operands]
            flops = _flops_of_convolution(kind, line, shapes[name], given)
        elif called := re.search(r"calls=%([\w.\-]+)", line):
            flops = products.get(called[1], 0.0)
        # A slice reads as much as it gives.
        read = sizes[name] if kind == "slice" else sum(sizes.get(o, 0) for o in operands)
        before = totals.get(kind, Operations(0, 0, 0.0))
        totals[kind] = Operations(
            before.calls + 1, before.bytes + sizes[name] + read, before.flops + flops
        )
    return dict(sorted(totals.items(), key=lambda item: -item[1].bytes))


def _kind(name, code, line):
    if code == "custom-call":
        target = re.search(r'custom_call_target="([^"]+)"', line)[1]
        return _CONVOLUTIONS.get(target, "matrix product" if "gemm" in target else target)
    if code == "fusion":
        return next((kind for word, kind in _FUSIONS.items() if word in name), "element-wise")
    return code


def _window(line):
    """The window of a call of cuDNN."""
    found = re.search(r"window=\{size=([\dx]+)", line)
    return tuple(map(int, found[1].split("x"))) if found else ()


def _flops_of_convolution(kind, line, result, operands):
    """Twice the multiplications: each voxel of the smaller side through each tap of the window."""
    order = re.search(r"dim_labels=\w+_(\w+)->", line)[1]
    # Of a kernel (O, I, ...) or (O, ..., I): the input channels of each output channel.
    kernel = result[0] if kind.endswith("kernel") else operands[1][0]
    inputs = kernel[order.index("i")]
    maps = operands[1] if kind.endswith("kernel") else operands[0]
    outputs = math.prod((result if kind == "convolution" else maps)[0])
    return 2.0 * outputs * inputs * math.prod(_window(line))


def _products(text):
    """Computation -> twice the multiplications of the matrix products in it."""
    found, current, shapes = {}, None, {}
    for line in text.splitlines():
        if line.startswith("%") and line.endswith("{"):
            current, shapes = line.split(" ")[0][1:], {}
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        name, result, code, rest = match.groups()
        shapes[name] = [shape for shape, _ in named_arrays(result)]
        if code == "dot" and current:
            first = re.findall(r"%([\w.\-]+)", rest)[0]
            axes = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", line)[1]
            summed = math.prod(shapes[first][0][int(axis)] for axis in axes.split(","))
            flops = 2.0 * math.prod(shapes[name][0]) * summed
            found[current] = found.get(current, 0.0) + flops
    return found


def roofline_seconds(found: dict[str, Operations], flops_per_second, bandwidth) -> dict[str, float]:
    """Kind -> seconds, each at the card's published rates.

    Convolutions and products take the longer of their operations and their bytes, all else its
    bytes; nothing overlaps, every kernel reaches the published rates, and starting one takes no
    time (Williams et al. 2009, "Roofline", summed over kinds).

    Args:
        found: of `operations`.
        flops_per_second: of the card's matrix units, for the dtype that is computed in.
        bandwidth: of its memory, bytes/s.
    """
    return {
        kind: max(each.flops / flops_per_second, each.bytes / bandwidth)
        for kind, each in found.items()
    }
