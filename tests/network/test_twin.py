"""The network and its gradients against a PyTorch twin, in float64."""

import jax
import numpy as np
import pytest

from isanet_jax.losses import segmentation_loss
from isanet_jax.network import systems
from isanet_jax.network.config import ModelConfig
from isanet_jax.settings.table import Loss

PAPER = {"size": 16}
# D is not H: the slices that ISA multiplies are square all the same.
WIDE = {"size": (8, 16, 16), "images": ("ct", "pet", "mr"), "classes": 2}


@pytest.mark.parametrize("settings", [PAPER, WIDE], ids=["paper", "three images, two classes"])
def test_gradients_are_those_of_a_pytorch_twin(settings, generator):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install .[bench]")
    from benchmarks import twin

    with jax.enable_x64(True):
        config = ModelConfig(
            **settings, width=2, levels=3, convolution="native", dtype="float64", reading="code"
        )
        graphdef, params = systems.create(config, jax.random.key(0))
        params = jax.tree.map(
            lambda p: np.asarray(p, np.float64) + 0.1 * generator.normal(size=p.shape), params
        )
        images, classes = len(config.images), config.classes
        image = generator.normal(size=(2, *config.shape, images))
        label = (generator.random((2, *config.shape, classes)) < 0.2).astype(np.float64)

        @jax.jit
        def function(params, image, label):
            output = systems.apply(graphdef, params, image)
            return segmentation_loss(output, label, Loss())[0]

        loss, gradients = jax.value_and_grad(function)(params, image, label)
        loss, gradients = jax.device_get((loss, gradients))

    network = twin.Twin(2, 3, config.images, classes).double()
    twin.load(network, params)
    first, last = (torch.tensor(np.moveaxis(a, -1, 1).copy()) for a in (image, label))
    expected = twin.loss(network(first), last)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    found = twin.named(gradients)
    assert found.keys() == {name for name, _ in network.named_parameters()}
    scale = max(p.grad.abs().max().item() for p in network.parameters())
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(
            found[name], parameter.grad.numpy(), rtol=1e-9, atol=1e-9 * scale, err_msg=name
        )
