"""The system that behavioural tests train: one convolution, which compiles in a second.

It is declared as docs/extending.md says; conftest.py names this file in ISANET_EXTENSIONS.
"""

from flax import nnx

from isanet_jax.network.blocks import ConvBlock, halved, output_convolution
from isanet_jax.network.system import Output, System, network_input


class Plain(nnx.Module):
    """A convolution 3^3 with norm and ReLU, and the convolution to the logits.

    With `deep_supervision` another one sees its output at half the size.
    """

    def __init__(self, config, *, rngs):
        self.config = config
        form = config.convolution
        self.first = ConvBlock(len(config.modalities), config.width, 3, form=form, rngs=rngs)
        self.head = output_convolution(config.width, config, rngs=rngs)
        self.coarse = (
            output_convolution(config.width, config, rngs=rngs) if config.deep_supervision else None
        )

    def __call__(self, image):
        x = self.first(network_input(image, self.config))
        logits = self.head(x).astype("float32")
        if self.coarse is None:
            return Output(logits)
        return Output(logits, ((0.5, self.coarse(halved(x)).astype("float32")),))


SYSTEMS = {
    "plain": System(
        "one convolution",
        Plain,
        width=4,
        levels=lambda size: 2,
        reads=("deep_supervision",),
        can_split=True,
    )
}
