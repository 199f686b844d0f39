import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isanet_jax.network import systems

SIZE = 16


def loss_of(name, remat, form="native"):
    levels = 2 if name == "isa" else 3  # of two encoders and decoders, two levels show all
    settings = {"name": name, "width": 4, "levels": levels, "remat": remat, "convolution": form}
    graphdef, params = systems.create(systems.resolve(SIZE, settings), jax.random.key(0))

    def loss(params, image):
        return jnp.mean(jnp.square(systems.apply(graphdef, params, image).logits - 1))

    return loss, params


@pytest.mark.parametrize("name", ["isa", "vnet", "iantsen2020", "xie2020"])
def test_gradients_are_those_of_the_plain_step(generator, name):
    image = jnp.asarray(generator.normal(size=(1, SIZE, SIZE, SIZE, 2)), jnp.float32)
    plain, params = loss_of(name, "none")
    assert "remat" not in str(jax.make_jaxpr(jax.grad(plain))(params, image))
    expected = jax.jit(jax.grad(plain))(params, image)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected))
    policies = ("convolutions", "blocks", "levels") if name == "isa" else ("levels",)
    for remat in policies:
        loss, _ = loss_of(name, remat)
        # What is compared must not be the plain step again.
        assert "remat" in str(jax.make_jaxpr(jax.grad(loss))(params, image))
        gradients = jax.jit(jax.grad(loss))(params, image)
        for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)


def test_on_the_cpu_less_memory_is_needed_for_the_same_gradients(generator):
    """XLA's CPU compiler merged what was computed twice: the setting had no effect there."""
    image = jnp.asarray(generator.normal(size=(1, SIZE, SIZE, SIZE, 2)), jnp.float32)
    compiled = {}
    for remat in ("none", "blocks", "levels"):
        loss, params = loss_of("isa", remat, "folded")
        compiled[remat] = jax.jit(jax.grad(loss)).lower(params, image).compile()
    kept = compiled.pop("none")
    expected = kept(params, image)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected))
    for remat, recomputed in compiled.items():
        needs = [c.memory_analysis().temp_size_in_bytes for c in (recomputed, kept)]
        assert needs[0] < 0.6 * needs[1], remat
        found = recomputed(params, image)
        for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)
