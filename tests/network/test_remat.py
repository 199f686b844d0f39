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
    """On the CPU, too, with less memory: XLA merged there what was computed twice."""
    image = jnp.asarray(generator.normal(size=(1, SIZE, SIZE, SIZE, 2)), jnp.float32)
    # ISA's in the CPU's form, in which the memory is compared.
    form = "folded" if name == "isa" else "native"
    plain, params = loss_of(name, "none", form)
    assert "remat" not in str(jax.make_jaxpr(jax.grad(plain))(params, image))
    kept = jax.jit(jax.grad(plain)).lower(params, image).compile()
    expected = kept(params, image)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected))
    policies = {"isa": ("convolutions", "blocks", "levels"), "vnet": ("blocks", "levels")}
    for remat in policies.get(name, ("levels",)):
        # In the folded form there is nothing that "convolutions" could recompute.
        of = "native" if remat == "convolutions" else form
        loss, _ = loss_of(name, remat, of)
        recomputed = jax.jit(jax.grad(loss)).lower(params, image).compile()
        # What is compared must not be the plain step again.
        if of == "native":
            assert "remat" in str(jax.make_jaxpr(jax.grad(loss))(params, image))
        else:
            needs = [c.memory_analysis().temp_size_in_bytes for c in (recomputed, kept)]
            assert needs[0] < 0.6 * needs[1], remat
        found = recomputed(params, image)
        for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)
