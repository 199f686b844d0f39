"""Trained networks for programs that are not this one: ONNX, StableHLO."""

FORMATS = ("onnx", "stablehlo")
