"""ISA-Net in PyTorch, for the benchmarks alone: what a user would write and run instead.

The paper's network with PyTorch's own modules. Parts have the names that they have in
isanet_jax/network, so that `load` can give it the JAX network's parameters: the benchmarks first
show that both compute the same.
"""

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional


class ConvBlock(nn.Module):
    """Convolution without bias -> instance norm -> ReLU."""

    def __init__(self, inputs, outputs, size):
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, size, padding=size // 2, bias=False)
        self.norm = nn.InstanceNorm3d(outputs, eps=1e-5, affine=True)

    def forward(self, x):
        return functional.relu(self.norm(self.conv(x)), inplace=True)


class Residual(nn.Module):
    """Eq. 1."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.body = ConvBlock(inputs, outputs, 3)
        self.shortcut = ConvBlock(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


class ChannelGate(nn.Module):
    """Eqs. 2-3."""

    def __init__(self, channels):
        super().__init__()
        self.perceptron = nn.ModuleDict(
            {
                "first": nn.Linear(channels, 2 * channels),
                "second": nn.Linear(2 * channels, channels),
            }
        )

    def forward(self, x):
        hidden = torch.relu(self.perceptron["first"](x.mean((2, 3, 4))))
        return x * torch.sigmoid(self.perceptron["second"](hidden))[:, :, None, None, None]


class ISA(nn.Module):
    """Eqs. 4-8 with the per-slice matrix product."""

    def __init__(self, channels):
        super().__init__()
        self.channel_gate = ChannelGate(channels)
        self.query = ConvBlock(channels, channels, 3)
        self.key = ConvBlock(channels, channels, 5)
        self.value = ConvBlock(channels, channels, 1)
        self.output = nn.Conv3d(2 * channels, channels, 1)

    def forward(self, x):
        attended = self.channel_gate(x)
        fused = torch.matmul(self.query(attended), self.key(attended))
        weight = torch.softmax(fused.flatten(2), dim=2).view_as(fused)
        return self.output(torch.cat([weight * self.value(attended), x], 1))


class EncoderLevel(nn.Module):
    """Residual, Residual, ISA."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.first, self.second = Residual(inputs, outputs), Residual(outputs, outputs)
        self.attention = ISA(outputs)

    def forward(self, x):
        return self.attention(self.second(self.first(x)))


class Encoder(nn.Module):
    """One image -> feature maps, finest first."""

    def __init__(self, widths):
        super().__init__()
        inputs = (1, *widths[:-1])
        self.levels = nn.ModuleList(map(EncoderLevel, inputs, widths))

    def forward(self, x):
        maps = []
        for index, level in enumerate(self.levels):
            x = level(functional.max_pool3d(x, 2) if index else x)
            maps.append(x)
        return maps


class DecoderLevel(nn.Module):
    """Transposed convolution, concatenation, Residual, ISA."""

    def __init__(self, inputs, outputs, parts):
        super().__init__()
        self.up = nn.ConvTranspose3d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        self.residual = Residual((1 + parts) * outputs, outputs)
        self.attention = ISA(outputs)

    def forward(self, x, parts):
        return self.attention(self.residual(torch.cat([self.up(x), *parts], 1)))


class Decoder(nn.Module):
    """Outputs of its levels, finest first."""

    def __init__(self, widths, parts):
        super().__init__()
        self.levels = nn.ModuleList(
            DecoderLevel(below, width, parts)
            for below, width in zip(widths[1:], widths[:-1], strict=True)
        )

    def forward(self, bottleneck, parts):
        x, outputs = bottleneck, []
        for level in reversed(range(len(self.levels))):
            x = self.levels[level](x, parts[level])
            outputs.insert(0, x)
        return outputs


class Twin(nn.Module):
    """(B, images, D, H, W) -> logits (B, classes, D, H, W)."""

    def __init__(self, width, levels=5, images=("ct", "pet"), classes=1):
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.images = images
        self.encoders = nn.ModuleDict({name: Encoder(widths) for name in images})
        self.decoders = nn.ModuleDict(
            {name: Decoder(widths, 1 if name == images[-1] else 2) for name in images}
        )
        self.head = nn.Conv3d(width, classes, 1)

    def forward(self, image):
        maps = [self.encoders[name](image[:, [i]]) for i, name in enumerate(self.images)]
        decoded = None
        for name, features in zip(reversed(self.images), reversed(maps), strict=True):
            parts = [[skip] for skip in features[:-1]]
            if decoded:
                parts = [[*part, x] for part, x in zip(parts, decoded, strict=True)]
            decoded = self.decoders[name](features[-1], parts)
        return self.head(decoded[0])


def loss(logits, label):
    """Dice plus focal loss (Eqs. 9-11) of (B, classes, D, H, W), as isanet_jax.losses."""
    p = torch.sigmoid(logits)
    volume = (2, 3, 4)
    dice = 1 - 2 * (label * p).sum(volume) / (label.sum(volume) + p.sum(volume) + 1e-5)
    tumour = label * (1 - p).square() * functional.logsigmoid(logits)
    other = (1 - label) * p.square() * functional.logsigmoid(-logits)
    return dice.mean() - 0.5 * (tumour + other).mean()


def load(twin: Twin, params) -> None:
    """Copies the parameters of isanet_jax's network (`systems.create`'s)."""
    twin.load_state_dict({name: torch.tensor(value) for name, value in named(params).items()})


def named(params) -> dict[str, np.ndarray]:
    """The parameters of isanet_jax's network, or their gradients, as PyTorch has them."""
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *parts, last = (str(k.key) for k in path if hasattr(k, "key"))
        value = np.asarray(leaf)
        if value.ndim == 5:
            # Stored as a cross-correlation kernel, which PyTorch's transposed one is not.
            flipped = np.flip(value, (0, 1, 2)) if parts[-1] == "up" else value
            first, second = (3, 4) if parts[-1] == "up" else (4, 3)
            value = flipped.transpose(first, second, 0, 1, 2)
        elif value.ndim == 2:
            value = value.T
        name = "bias" if last == "bias" else "weight"
        arrays[".".join([*parts, name])] = value.copy()
    return arrays
