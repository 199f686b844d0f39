import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from isanet_jax.losses.parts import cross_entropy, dice_loss, focal_loss
from isanet_jax.losses.segmentation import LOSSES, segmentation_loss
from isanet_jax.network.system import Output
from isanet_jax.settings.table import Loss

SHAPE = (2, 3, 4, 5, 3)


def naive(logits, y, alpha=0.5, gamma=2):
    """Means over samples and classes, which stand last."""
    p = 1 / (1 + np.exp(-logits))
    pairs = [(y[i, ..., k], p[i, ..., k]) for i in range(len(y)) for k in range(y.shape[-1])]
    dice = [1 - 2 * (a * b).sum() / (a.sum() + b.sum() + 1e-5) for a, b in pairs]
    squared = [
        1 - (2 * (a * b).sum() + 1e-3) / ((a**2).sum() + (b**2).sum() + 1e-3) for a, b in pairs
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


def test_a_batchs_dice_is_that_of_its_samples_as_one(generator):
    logits = generator.normal(size=SHAPE)
    label = generator.choice([0.0, 1.0], size=SHAPE)
    label[0] = 0  # alone, it would count 1
    together = [a.transpose(4, 0, 1, 2, 3).reshape(1, 3, -1, 4, 5) for a in (logits, label)]
    dice, squared, _ = naive(*(a.transpose(0, 2, 3, 4, 1) for a in together))
    logits, label = jnp.float32(logits), jnp.float32(label)
    assert dice_loss(logits, label, of_batch=True) == pytest.approx(dice, rel=1e-5)
    found = dice_loss(logits, label, squared=True, of_batch=True)
    assert found == pytest.approx(squared, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_voxels_are_as_if_they_were_not_there(generator, name):
    """Against a volume without them; and no gradient comes from them."""
    logits = generator.normal(size=(1, 6, 4, 5, 2)).astype("f4")
    label = generator.choice([0, 0.5, 1], size=logits.shape).astype("f4")
    ignored = np.zeros((1, 6, 4, 5), "f4")
    ignored[:, 4:] = 0.5

    def loss(z, y, ignored=None):
        return segmentation_loss(Output(z), y, Loss(name=name), ignored)

    value, gradient = jax.value_and_grad(lambda z: loss(z, label, ignored)[0])(jnp.array(logits))
    assert value == pytest.approx(float(loss(logits[:, :4], label[:, :4])[0]), rel=1e-5)
    assert not gradient[:, 4:].any()
    assert gradient[:, :4].all()
    nothing = loss(logits, label, np.ones_like(ignored))[0]
    assert np.isfinite(nothing)


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


def test_the_own_recipes_focal_settings_are_the_cross_entropy(generator):
    logits, label = generator.normal(size=SHAPE), generator.integers(0, 2, SHAPE)
    expected = -np.mean(
        label * np.log(special.expit(logits)) + (1 - label) * np.log(special.expit(-logits))
    )
    output, label = Output(jnp.float32(logits)), jnp.float32(label)
    _, parts = segmentation_loss(output, label, Loss(gamma=0.0, focal_weight=2.0))
    assert parts["focal_loss"] == pytest.approx(expected, rel=1e-5)
    assert cross_entropy(output.logits, label) == pytest.approx(expected, rel=1e-5)
    total, parts = segmentation_loss(output, label, Loss(name="dice_ce"))
    assert parts["cross_entropy"] == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(float(parts["dice_loss"]) + expected, rel=1e-5)


def test_every_supervised_output_counts_with_its_weight(generator):
    fine, coarse = generator.normal(size=(2, 4, 4, 4, 2)), generator.normal(size=(2, 2, 2, 2, 2))
    label = generator.integers(0, 2, (2, 4, 4, 4, 2))
    output = Output(jnp.float32(fine), ((0.5, jnp.float32(coarse)),))
    loss, parts = segmentation_loss(output, jnp.float32(label), Loss(focal_weight=3.0))
    of_fine, of_coarse = naive(fine, label), naive(coarse, label[:, 1::2, 1::2, 1::2])
    sums = [dice + 3 * focal for dice, _, focal in (of_fine, of_coarse)]
    assert loss == pytest.approx((sums[0] + 0.5 * sums[1]) / 1.5, rel=1e-5)
    assert parts["dice_loss"] == pytest.approx(of_fine[0], rel=1e-5)
    assert parts["focal_loss"] == pytest.approx(3 * of_fine[2], rel=1e-5)


def test_a_label_that_would_be_broadcast_is_refused():
    with pytest.raises(ValueError, match=r"label \(1, 4, 4, 4\) for logits \(1, 4, 4, 4, 1\)"):
        segmentation_loss(Output(jnp.zeros((1, 4, 4, 4, 1))), jnp.zeros((1, 4, 4, 4)), Loss())
