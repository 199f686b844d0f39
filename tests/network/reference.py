"""The networks' parts in plain NumPy, float64, written from the specification alone.

It shares no code with the package: parameters come in by their names, convolutions are sums over
taps, everything else is spelled out.
"""

import numpy as np


def conv(x, kernel):
    """(D, H, W, C), (k, k, k, C, O): sum over taps of shifted inputs."""
    k = kernel.shape[0]
    padded = np.pad(x, [(k // 2, k // 2)] * 3 + [(0, 0)])
    d, h, w, _ = x.shape
    out = np.zeros((d, h, w, kernel.shape[-1]))
    for a in range(k):
        for b in range(k):
            for c in range(k):
                out += padded[a : a + d, b : b + h, c : c + w] @ kernel[a, b, c]
    return out


def transposed(x, kernel, bias):
    """PyTorch's definition: out[2i - 1 + k] += x[i] @ flipped kernel[k]; output exactly twice."""
    d, h, w, _ = x.shape
    flipped = kernel[::-1, ::-1, ::-1]
    full = np.zeros((2 * d + 2, 2 * h + 2, 2 * w + 2, kernel.shape[-1]))
    for a in range(3):
        for b in range(3):
            for c in range(3):
                full[a : a + 2 * d : 2, b : b + 2 * h : 2, c : c + 2 * w : 2] += (
                    x @ flipped[a, b, c]
                )
    return full[1 : 2 * d + 1, 1 : 2 * h + 1, 1 : 2 * w + 1] + bias


def norm(x, p):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * p["scale"] + p["bias"]


def conv_block(x, p):
    return np.maximum(norm(conv(x, p["conv"]["kernel"]), p["norm"]), 0)


def residual(x, p):
    return conv_block(x, p["body"]) + (conv_block(x, p["shortcut"]) if "shortcut" in p else x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def perceptron(x, p):
    hidden = np.maximum(x @ p["first"]["kernel"] + p["first"]["bias"], 0)
    return hidden @ p["second"]["kernel"] + p["second"]["bias"]


def channel_gate(x, p):
    return x * sigmoid(perceptron(x.mean((0, 1, 2)), p["perceptron"]))


def isa(x, p, fusion, scale, reading):
    attended = channel_gate(x, p["channel_gate"])
    q, k, v = (conv_block(attended, p[name]) for name in ("query", "key", "value"))
    if fusion == "product":
        u = q * k
    else:
        u = np.empty_like(q)
        for d in range(x.shape[0]):
            for c in range(x.shape[3]):
                u[d, :, :, c] = q[d, :, :, c] @ k[d, :, :, c]
        if fusion == "matmul_scaled":
            u /= np.sqrt(x.shape[2])
    weight = np.exp(u - u.max((0, 1, 2)))
    weight /= weight.sum((0, 1, 2))
    if scale == "sigmoid":
        weight = sigmoid(u)
    if scale == "mean":
        weight *= x.shape[0] * x.shape[1] * x.shape[2]
    joined = np.concatenate([weight * v, x], -1)
    out = joined @ p["output"]["kernel"][0, 0, 0]
    return np.maximum(out, 0) if reading == "text" else out + p["output"]["bias"]


def scse(x, p):
    voxel = sigmoid(x @ p["space"]["kernel"][0, 0, 0] + p["space"]["bias"])
    return np.maximum(channel_gate(x, p["channel"]), x * voxel)


def se_norm(x, p):
    pooled = x.mean((0, 1, 2))
    plain = (x - pooled) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    return plain * sigmoid(perceptron(pooled, p["gamma"])) + np.tanh(perceptron(pooled, p["beta"]))


def pool(x):
    d, h, w, c = x.shape
    return x.reshape(d // 2, 2, h // 2, 2, w // 2, 2, c).max((1, 3, 5))


def attend(x, p, config):
    options = config.fusion, config.weight_scale, config.reading
    return isa(x, p["attention"], *options) if "attention" in p else x


def encode(x, p, config):
    features = []
    for level in range(config.levels):
        x = pool(x) if level else x
        weights = p["levels"][level]
        x = attend(residual(residual(x, weights["first"]), weights["second"]), weights, config)
        features.append(x)
    return features


def decode(x, p, config, up_weight, parts):
    outputs = {}
    for level in reversed(range(config.levels - 1)):
        weights = p["levels"][level]
        bias = weights["up"]["bias"] if config.reading == "code" else 0
        up = transposed(x, weights["up"]["kernel"], bias)
        x = residual(np.concatenate([up_weight * up, *parts[level]], -1), weights["residual"])
        if config.reading == "text":
            x = residual(x, weights["second"])
        x = outputs[level] = attend(x, weights, config)
    return outputs


def forward(params, config, image):
    """Logits (D, H, W, classes) of images (D, H, W, images)."""
    maps = {
        name: encode(image[..., i : i + 1], params["encoders"][name], config)
        for i, name in enumerate(config.images)
        if name in config.modalities
    }
    weights = dict(zip(config.images, config.fusion_weights, strict=True))
    levels, decoders = range(config.levels - 1), params["decoders"]
    if config.decoder == "shared":
        parts = [[weights[name] * maps[name][i] for name in maps] for i in levels]
        bottom = np.concatenate([weights[name] * maps[name][-1] for name in maps], -1)
        out = decode(bottom, decoders["shared"], config, 1, parts)
    else:
        chain = list(maps)
        last = chain.pop()
        parts = [[maps[last][i]] for i in levels]
        out = decode(maps[last][-1], decoders[last], config, 1, parts)
        while chain:
            name = chain.pop()
            own = weights[name]
            parts = [[own * maps[name][i], weights[last] * out[i]] for i in levels]
            out = decode(maps[name][-1], decoders[name], config, own, parts)
            last = name
    logits = out[0] @ params["head"]["kernel"][0, 0, 0]
    return logits + params["head"]["bias"] if config.reading == "code" else logits
