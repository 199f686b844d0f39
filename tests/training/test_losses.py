import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isanet_jax.training.losses import dice_loss, focal_loss

SHAPE = (2, 3, 4, 5)


def naive(logits, y, alpha=0.5, gamma=2):
    p = 1 / (1 + np.exp(-logits))
    dice = [1 - 2 * (a * b).sum() / (a.sum() + b.sum() + 1e-5) for a, b in zip(y, p, strict=True)]
    squared = [
        1 - (2 * (a * b).sum() + 1e-3) / ((a**2).sum() + (b**2).sum() + 1e-3)
        for a, b in zip(y, p, strict=True)
    ]
    focal = -np.mean(
        alpha * y * (1 - p) ** gamma * np.log(p) + (1 - alpha) * (1 - y) * p**gamma * np.log(1 - p)
    )
    return np.mean(dice), np.mean(squared), focal


def test_losses_agree_with_their_equations(generator):
    logits = generator.normal(size=SHAPE)
    label = generator.choice([0, 0.5, 1], size=SHAPE)
    dice, squared, focal = naive(logits, label, alpha=0.3, gamma=1.5)
    logits, label = jnp.float32(logits), jnp.float32(label)
    assert dice_loss(logits, label) == pytest.approx(dice, rel=1e-5)
    assert dice_loss(logits, label, squared=True) == pytest.approx(squared, rel=1e-5)
    assert focal_loss(logits, label, alpha=0.3, gamma=1.5) == pytest.approx(focal, rel=1e-5)


def test_focal_loss_of_one_half():
    label = jnp.zeros(SHAPE).at[0].set(1)
    assert focal_loss(jnp.zeros(SHAPE), label) == pytest.approx(0.086643, abs=1e-6)


@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_extremes_and_empty_labels_stay_finite(logit, value):
    logits, label = jnp.full(SHAPE, logit), jnp.full(SHAPE, value)
    for squared in (False, True):

        def total(z, squared=squared):
            return dice_loss(z, label, squared=squared) + focal_loss(z, label)

        loss, grads = jax.value_and_grad(total)(logits)
        assert jnp.isfinite(loss)
        assert jnp.isfinite(grads).all()
