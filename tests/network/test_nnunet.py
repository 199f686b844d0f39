"""nnU-Net's network against nnU-Net's own: pip install torch dynamic-network-architectures."""

import jax
import numpy as np
import pytest

from isanet_jax.network import systems
from isanet_jax.network.config import ModelConfig

LEVELS, WIDTH, CLASSES = 4, 4, 2


BLOCKS = [1, 3, 4, 6]
CUBES = (((1, 1, 1), *[(2, 2, 2)] * 3), ((3, 3, 3),) * 4)
# As nnU-Net plans where slices are thick: the depth is halved later, and convolved over later.
SLICES = (
    ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 1, 2)),
    ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
)


@pytest.fixture(params=["nnunet", "nnunet_resenc"])
def system(request):
    return request.param


@pytest.fixture(params=[CUBES, SLICES], ids=["cubes", "slices"])
def topology(request):
    """Strides and kernels of each level."""
    return request.param


@pytest.fixture
def theirs(system, topology):
    """The network in PyTorch, with parameters none of which is 0 or 1."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    unet = pytest.importorskip(
        "dynamic_network_architectures.architectures.unet",
        reason="dynamic-network-architectures is not installed",
    )
    torch.manual_seed(0)
    make, blocks, convs = unet.PlainConvUNet, 2, 2
    if system == "nnunet_resenc":
        make, blocks, convs = unet.ResidualEncoderUNet, BLOCKS, 1
    widths = [WIDTH * 2**level for level in range(LEVELS)]
    strides, kernels = topology
    network = make(
        2, LEVELS, widths, torch.nn.Conv3d, kernels, strides, blocks, CLASSES, convs,
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"negative_slope": 0.01, "inplace": True},
        deep_supervision=True,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def carried(network):
    """The parameters of the PyTorch network as ours have them."""

    def conv(module):
        out = {"kernel": module.weight.detach().numpy().transpose(2, 3, 4, 1, 0)}
        has_bias = module.bias is not None
        return out | ({"bias": module.bias.detach().numpy()} if has_bias else {})

    def norm(module):
        return {"scale": module.weight.detach().numpy(), "bias": module.bias.detach().numpy()}

    def several(convs):
        return {
            "convs": {i: conv(c.conv) for i, c in enumerate(convs)},
            "norms": {i: norm(c.norm) for i, c in enumerate(convs)},
        }

    def stage(blocks):
        return several(blocks.convs)

    def residual(block):
        out = several([block.conv1, block.conv2])
        changing = [m for m in getattr(block.skip, "children", list)() if hasattr(m, "conv")]
        for one in changing:
            out |= {"skip": conv(one.conv), "skip_norm": norm(one.norm)}
        return out

    def up(module):
        kernel = module.weight.detach().numpy().transpose(2, 3, 4, 0, 1)
        return {"kernel": kernel, "bias": module.bias.detach().numpy()}

    encoder, decoder = network.encoder, network.decoder
    coarse_first = list(range(LEVELS - 1))
    if hasattr(encoder, "stem"):
        of_encoder = {
            "stem": stage(encoder.stem),
            "encoder": {
                i: {n: residual(block) for n, block in enumerate(s.blocks)}
                for i, s in enumerate(encoder.stages)
            },
        }
    else:
        of_encoder = {"encoder": {i: stage(s[0]) for i, s in enumerate(encoder.stages)}}
    return of_encoder | {
        "decoder": {LEVELS - 2 - i: stage(decoder.stages[i]) for i in coarse_first},
        "up": {LEVELS - 2 - i: up(decoder.transpconvs[i]) for i in coarse_first},
        "heads": {LEVELS - 2 - i: conv(decoder.seg_layers[i]) for i in coarse_first[1:]},
    }


def test_outputs_are_those_of_nnunets_network(theirs, system, topology):
    import torch

    strides, kernels = () if topology is CUBES else topology[0], topology[1]
    config = ModelConfig(
        name=system, size=16, strides=strides, kernels=kernels, width=WIDTH, levels=LEVELS,
        classes=CLASSES, deep_supervision=True, convolution="native",
    )  # fmt: skip
    graphdef, params = systems.create(config, jax.random.key(0))
    weights = carried(theirs)
    assert jax.tree.structure(params) == jax.tree.structure(weights)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, weights)
    # The coarsest of its heads has no weight in nnU-Net's loss, and is left out here.
    unused = sum(p.numel() for p in theirs.decoder.seg_layers[0].parameters())
    count = sum(p.numel() for p in theirs.parameters()) - unused
    assert systems.count_parameters(params) == count
    image = np.random.default_rng(0).normal(size=(2, 16, 16, 16, 2)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(image.transpose(0, 4, 1, 2, 3)))
    found = jax.jit(lambda p, x: systems.apply(graphdef, p, x))(weights, image)
    levels = [found.logits, *(logits for _, logits in found.auxiliary)]
    assert len(levels) == len(expected) - 1
    for level, reference in zip(levels, expected, strict=False):
        np.testing.assert_allclose(
            level, reference.numpy().transpose(0, 2, 3, 4, 1), rtol=1e-5, atol=1e-5
        )
