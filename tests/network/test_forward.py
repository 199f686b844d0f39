"""The systems' whole forward passes against NumPy and SciPy: what is joined with what."""

import jax
import numpy as np
import pytest
from scipy import ndimage, special

from isanet_jax.network import systems
from tests.network import reference
from tests.network.reference import conv, norm, pool, scse, se_norm

SIZE = 16


def biased(x, p):
    return conv(x, p["kernel"]) + p["bias"]


def halved(x, p):
    return sum(
        x[a::2, b::2, c::2] @ p["kernel"][a, b, c]
        for a in range(2) for b in range(2) for c in range(2)
    )  # fmt: skip


def doubled(x, p):
    out = np.empty((*(2 * n for n in x.shape[:3]), p["kernel"].shape[-1]))
    for a, b, c in np.ndindex(2, 2, 2):
        out[a::2, b::2, c::2] = x @ p["kernel"][a, b, c]
    return out


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def vnet(image, p):
    def activated(x, q):
        kernel = q["conv"]["kernel"]
        out = halved(x, q["conv"]) if len(kernel) == 2 else conv(x, kernel)
        return elu(norm(out, q["norm"]))

    def stage(x, convs):
        out = x
        for q in convs.values():
            out = activated(out, q)
        return elu(x + out)

    width = p["first"]["conv"]["kernel"].shape[-1]
    # As published: the first convolution is activated after the sum only.
    first = norm(conv(image, p["first"]["conv"]["kernel"]), p["first"]["norm"])
    x = elu(first + np.concatenate([image] * (width // 2), -1))
    skips = []
    for halve, down in zip(p["halve"].values(), p["down"].values(), strict=True):
        skips.append(x)
        x = stage(activated(x, halve), down)
    for level in reversed(range(len(skips))):
        up = p["double"][level]
        x = np.concatenate([elu(norm(doubled(x, up["conv"]), up["norm"])), skips[level]], -1)
        x = stage(x, p["up"][level])
    return biased(activated(x, p["last"]), p["head"]), []


def iantsen(image, p):
    def block(x, q):
        return se_norm(np.maximum(biased(x, q["conv"]), 0), q["norm"])

    def residual(x, q):
        return block(x, q["body"]) + (block(x, q["shortcut"]) if "shortcut" in q else x)

    x, skips = image, []
    for level, blocks in p["encoder"].items():
        x = pool(x) if level else x
        for q in blocks.values():
            x = residual(x, q)
        skips.append(x)
    top = len(skips) - 1
    added = 0
    for level in reversed(range(top)):
        up = p["up"][level]
        x = np.concatenate([reference.transposed(x, up["kernel"], up["bias"]), skips[level]], -1)
        x = block(x, p["decoder"][level][0])
        if level:
            x = block(x, p["decoder"][level][1])
            path = block(x, p["paths"][level - 1])
            zoom = (*[2**level] * 3, 1)
            added = added + ndimage.zoom(path, zoom, order=1, mode="nearest", grid_mode=True)
    x = block(x + added, p["decoder"][0][1])
    return biased(x, p["head"]), []


def nnunet(normalise, attend):
    def forward(image, p):
        def stage(x, q, stride=1):
            for i in q["convs"]:
                out = conv(x, q["convs"][i]["kernel"]) + q["convs"][i].get("bias", 0)
                out = out[::stride, ::stride, ::stride] if i == 0 else out
                out = normalise(out, q["norms"][i])
                x = np.where(out > 0, out, 0.01 * out)
            return attend(x, q)

        def residual(x, q, stride):
            pairs = [n for size in x.shape[:3] for n in (size // stride, stride)]
            past = x.reshape(*pairs, -1).mean((1, 3, 5))
            if "skip" in q:
                past = normalise(conv(past, q["skip"]["kernel"]), q["skip_norm"])
            for i in range(2):
                x = conv(x, q["convs"][i]["kernel"]) + q["convs"][i]["bias"]
                x = x[::stride, ::stride, ::stride] if i == 0 else x
                x = normalise(x, q["norms"][i]) + past * i
                x = np.where(x > 0, x, 0.01 * x)
            return x

        x, skips = stage(image, p["stem"]) if "stem" in p else image, []
        for level, q in p["encoder"].items():
            if "stem" in p:
                for number, block in q.items():
                    x = residual(x, block, 2 if level and number == 0 else 1)
            else:
                x = stage(x, q, 2 if level else 1)
            skips.append(x)
        logits = {}
        for level in reversed(range(len(skips) - 1)):
            up = doubled(x, p["up"][level]) + p["up"][level].get("bias", 0)
            x = stage(np.concatenate([up, skips[level]], -1), p["decoder"][level])
            if level in p["heads"]:
                logits[level] = biased(x, p["heads"][level])
        coarser = [(0.5**level, logits[level]) for level in sorted(logits) if level]
        return logits[0], coarser

    return forward


def cascade(image, p):
    def unet(x, q):
        skips = []
        for level, weights in q["encoder"]["levels"].items():
            x = pool(x) if level else x
            x = reference.residual(reference.residual(x, weights["first"]), weights["second"])
            skips.append(x)
        for level in reversed(range(len(skips) - 1)):
            weights = q["decoder"]["levels"][level]
            up = reference.transposed(x, weights["up"]["kernel"], weights["up"]["bias"])
            x = reference.residual(np.concatenate([up, skips[level]], -1), weights["residual"])
        return biased(x, q["head"])

    half = SIZE // 2
    coarse = unet(image.reshape(half, 2, half, 2, half, 2, 2).mean((1, 3, 5)), p["coarse"])
    found = np.argwhere((special.expit(coarse) >= 0.2).any(-1))
    box = 12  # two thirds of 16 is 10.7; the boxes come in steps of 4 voxels
    centre = 2 * (found.mean(0) + 0.5) if len(found) else np.full(3, half)
    start = np.clip(np.floor(centre - box / 2 + 1e-6).astype(int), 0, SIZE - box)
    place = tuple(slice(s, s + box) for s in start)
    fine = unet(image[place], p["fine"])
    refined = unet(np.concatenate([image[place], special.expit(fine)], -1), p["refine"])
    whole = [np.full((SIZE, SIZE, SIZE, fine.shape[-1]), -10.0) for _ in range(2)]
    for out, part in zip(whole, (refined, fine), strict=True):
        out[place] = part
    return whole[0], [(1, whole[1]), (1, coarse)]


FORWARD = {
    "vnet": (4, vnet),
    "iantsen2020": (4, iantsen),
    "nnunet": (4, nnunet(norm, lambda x, q: x)),
    "nnunet_resenc": (4, nnunet(norm, lambda x, q: x)),
    "xie2020": (4, nnunet(norm, lambda x, q: scse(x, q["attention"]))),
    "xie2021": (4, nnunet(se_norm, lambda x, q: x)),
    "an2021": (4, cascade),
}


@pytest.mark.parametrize(("name", "classes"), [*((name, 1) for name in FORWARD), ("an2021", 2)])
def test_forward_agrees_with_numpy(name, classes, generator):
    levels, forward = FORWARD[name]
    settings = {"name": name, "width": 4, "levels": levels, "convolution": "auto"}
    settings["classes"] = classes
    settings["deep_supervision"] = name.startswith(("xie", "nnunet"))
    graphdef, params = systems.create(systems.resolve(SIZE, settings), jax.random.key(0))
    params = jax.tree.map(
        lambda p: p + 0.1 * generator.normal(size=p.shape).astype(np.float32), params
    )
    image = generator.normal(size=(2, SIZE, SIZE, SIZE, 2)).astype(np.float32)
    output = jax.jit(lambda p, x: systems.apply(graphdef, p, x))(params, image)
    plain = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    for i, one in enumerate(image.astype(np.float64)):
        logits, auxiliary = forward(one, plain)
        assert np.std(logits) > 0.05
        np.testing.assert_allclose(output.logits[i], logits, atol=1e-3, rtol=1e-3)
        assert len(output.auxiliary) == len(auxiliary)
        for (weight, found), (expected_weight, expected) in zip(
            output.auxiliary, auxiliary, strict=True
        ):
            assert weight == expected_weight
            np.testing.assert_allclose(found[i], expected, atol=1e-3, rtol=1e-3)
