"""Every system: its size derived by hand, and that all of it learns."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from isanet_jax.cases.case import read_case
from isanet_jax.errors import ConfigError
from isanet_jax.losses import segmentation_loss
from isanet_jax.network import systems
from isanet_jax.network.config import ModelConfig
from isanet_jax.network.system import network_input
from isanet_jax.pipeline.normalise import normalise
from isanet_jax.settings.table import Loss

OURS = [name for name in systems.SYSTEMS if name != "plain"]  # without the tests' own
UNET = 12_556_849  # the two-branch backbone, see test_backbone.py
# ISA-Net's sites: two encoders of five levels, two decoders of four.
SITES = 2 * (16, 32, 64, 128, 256) + 2 * (16, 32, 64, 128)


def perceptron(inputs, hidden, outputs):
    return inputs * hidden + hidden + hidden * outputs + outputs


def se(c):
    return perceptron(c, max(c // 16, 4), c)


def sk(c):
    branch = 27 * (c // 4) * c + 2 * c  # four groups; norm
    return 2 * branch + perceptron(c, max(c // 4, 4), 2 * c)


def cbam(c):
    return se(c) + 7**3 * 2 + 2  # one perceptron for both poolings; 7^3 kernel; norm


def vnet():
    def conv(inputs, outputs, taps=125):
        return taps * inputs * outputs + 2 * outputs  # no bias; norm

    down = conv(16, 32, 8) + conv(32, 64, 8) + conv(64, 128, 8) + conv(128, 256, 8)
    down += conv(32, 32) + 2 * conv(64, 64) + 3 * conv(128, 128) + 2 * conv(256, 256)
    up = conv(256, 128, 8) + conv(256, 64, 8) + conv(128, 32, 8) + conv(64, 16, 8)
    up += 2 * conv(256, 256) + 2 * conv(128, 128) + conv(64, 64) + conv(32, 32)
    return conv(2, 16) + down + up + conv(32, 2) + (2 + 1)


def se_norm(c):
    return 2 * perceptron(c, c // 2, c)


def iantsen2020():
    def block(inputs, outputs, size):
        return size**3 * inputs * outputs + outputs + se_norm(outputs)

    widths = (24, 48, 96, 192, 384)
    encoder = block(2, 24, 7) + block(2, 24, 1) + block(24, 24, 3)
    decoder = 0
    for a, b in itertools.pairwise(widths):
        encoder += block(a, b, 3) + block(a, b, 1) + 2 * block(b, b, 3)
        decoder += (27 * b * a + a) + block(2 * a, a, 3) + block(a, a, 3)
    paths = sum(block(c, 24, 1) for c in (48, 96, 192))
    return encoder + decoder + paths + (24 + 1)


def nnunet(norm, attention, heads=1, biases=0, up_biases=0):
    def stage(inputs, outputs):
        convs = 27 * inputs * outputs + 27 * outputs**2 + biases * outputs
        return convs + 2 * norm(outputs) + attention(outputs)

    widths = (32, 64, 128, 256, 320, 320)
    down = stage(2, 32) + sum(stage(a, b) for a, b in itertools.pairwise(widths))
    up = sum(8 * b * a + up_biases * a + stage(2 * a, a) for a, b in itertools.pairwise(widths))
    return down + up + sum(c + 1 for c in widths[:heads])


def nnunet_resenc():
    widths = (32, 64, 128, 256, 320, 320)
    total = 27 * 2 * 32 + 32 + 2 * 32  # before the first stage
    for a, b, blocks in zip((32, *widths[:-1]), widths, (1, 3, 4, 6, 6, 6), strict=True):
        total += 27 * a * b + (2 * blocks - 1) * 27 * b**2 + 2 * blocks * (b + 2 * b)
        total += a * b + 2 * b if a != b else 0
    for a, b in itertools.pairwise(widths):
        total += (8 * b * a + a) + (27 * 2 * a * a + a + 2 * a)
    return total + 32 + 1


def scse(c):
    return perceptron(c, c // 2, c) + (c + 1)


def an2021():
    def residual(inputs, outputs):
        shortcut = inputs * outputs + 2 * outputs if inputs != outputs else 0
        return 27 * inputs * outputs + 2 * outputs + shortcut

    def unet(inputs):
        widths = (16, 32, 64, 128)  # one level less than the volume's five
        total = residual(inputs, 16) + residual(16, 16) + (16 + 1)
        for a, b in itertools.pairwise(widths):
            total += residual(a, b) + residual(b, b)
            total += (27 * b * a + a) + residual(2 * a, a)
        return total

    return unet(2) + unet(2) + unet(3)


COUNTS = {
    ("isa", 144): 47_251_377,
    ("unet", 144): UNET,
    ("se", 144): UNET + sum(map(se, SITES)),
    ("sk", 144): UNET + sum(map(sk, SITES)),
    ("cbam", 144): UNET + sum(map(cbam, SITES)),
    ("vnet", 144): vnet(),
    ("iantsen2020", 144): iantsen2020(),
    ("nnunet", 128): nnunet(lambda c: 2 * c, lambda c: 0, biases=2, up_biases=1),
    ("nnunet_resenc", 128): nnunet_resenc(),
    ("xie2020", 128): nnunet(lambda c: 2 * c, scse),
    ("xie2021", 128): nnunet(se_norm, lambda c: 0, biases=2),
    ("an2021", 144): an2021(),
}


def settings(name, **changes):
    own = {"name": name, "width": 0, "levels": 0, "convolution": "auto"}
    return own | changes


@pytest.mark.parametrize(("name", "size"), COUNTS)
def test_parameter_counts_are_those_derived_by_hand(name, size):
    config = systems.resolve(size, settings(name))
    _, params = systems.create(config, jax.random.key(0))
    assert systems.count_parameters(params) == COUNTS[name, size]


def test_every_system_is_counted_and_described():
    assert {name for name, _ in COUNTS} == set(OURS)
    assert all(f"\n{name} " in "\n" + systems.describe_systems() for name in systems.SYSTEMS)


def test_deep_supervision_adds_a_head_to_every_level_but_the_coarsest_two():
    config = systems.resolve(128, settings("xie2020", deep_supervision=True))
    _, params = systems.create(config, jax.random.key(0))
    assert systems.count_parameters(params) == nnunet(lambda c: 2 * c, scse, heads=4)


@pytest.fixture(scope="module")
def phantom(cohort):
    """The normalised images and label of the cohort's largest tumour: (1, 16, 16, 16, 2 and 1)."""
    cases = [read_case(cohort.path(case)) for case in cohort.cases]
    case = max(cases, key=lambda c: (c.label > 0).sum())
    images = {name: image[None] for name, image in case.images.items()}
    image = normalise(images, {"ct": "ct", "pet": "pet"}, of_volume=True)
    return image, jnp.float32(case.label[None, ..., None] > 0)


# As few levels as show all of a system: a cascade has one less than its volume, iantsen2020's paths
# start at inner levels, and deep supervision spares the coarsest two.
LEVELS = {
    "iantsen2020": 3,
    "nnunet": 4,
    "nnunet_resenc": 4,
    "xie2020": 4,
    "xie2021": 4,
    "an2021": 3,
}


def tiny(name, **changes):
    """A system's config at 16^3, as small as it works."""
    size = {"width": 4, "levels": LEVELS.get(name, 2), "deep_supervision": name.startswith("xie")}
    return systems.resolve(16, settings(name, **size | changes))


@pytest.fixture(scope="module")
def step(phantom):
    """Of a system: its parameters, and one compiled step of Adam on the phantom."""
    image, label = phantom

    @cache
    def make(name):
        config = tiny(name)
        graphdef, params = systems.create(config, jax.random.key(0))
        optimizer = optax.adam(1e-2)

        @jax.jit
        def run(params, opt_state):
            def loss_fn(params):
                output = systems.apply(graphdef, params, image)
                loss = segmentation_loss(output, label, Loss())[0]
                return loss, output.logits

            (_, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
            updates, opt_state = optimizer.update(grads, opt_state)
            return optax.apply_updates(params, updates), opt_state, logits, grads

        return params, optimizer.init(params), run

    return make


@pytest.mark.parametrize("name", OURS)
def test_a_system_learns_one_phantom_by_heart(name, phantom, step):
    params, opt_state, run = step(name)
    mask = np.asarray(phantom[1]) > 0
    for _ in range(300):
        params, opt_state, logits, _ = run(params, opt_state)
        found = np.asarray(logits) > 0
        dsc = 2 * (found & mask).sum() / (found.sum() + mask.sum())
        if dsc > 0.95:
            break
    assert dsc > 0.95


@pytest.mark.parametrize("name", OURS)
def test_gradients_reach_every_parameter(name, step, generator):
    params, opt_state, run = step(name)
    silent = jax.tree.map(lambda p: np.ones(p.shape, bool), params)
    # Of every draw, a ReLU silences half of a gate's few hidden units: each has many chances.
    for _ in range(40):
        drawn = jax.tree.map(
            lambda p: p * generator.choice((-1, 1), p.shape) + 0.1 * generator.normal(size=p.shape),
            params,
        )
        _, _, _, grads = run(jax.tree.map(jnp.float32, drawn), opt_state)
        silent = jax.tree.map(lambda s, g: s & (np.asarray(g) == 0), silent, grads)
        if not any(leaf.any() for leaf in jax.tree.leaves(silent)):
            break
    leaves = jax.tree_util.tree_leaves_with_path(silent)
    assert not {jax.tree_util.keystr(path): int(s.sum()) for path, s in leaves if s.any()}


@pytest.mark.parametrize("name", OURS)
def test_prior_moves_what_an_untrained_system_says_and_nothing_else(name, step):
    _, opt_state, run = step(name)
    configs = [tiny(name, prior=prior) for prior in (0.5, 0.05)]
    params = [systems.create(config, jax.random.key(0))[1] for config in configs]
    logit = np.log(0.05 / 0.95)
    moved = jax.tree.map(lambda a, b: np.asarray(b - a), *params)
    moved = [x for x in jax.tree.leaves(moved) if x.any()]
    # An's three networks have one each; of Xie's, every supervised level.
    supervised = configs[0].levels - 2 if configs[0].deep_supervision else 1
    assert len(moved) == (3 if name == "an2021" else supervised)
    for bias in moved:
        np.testing.assert_allclose(bias, np.full(1, logit), rtol=1e-6)
    if name != "an2021":  # whose box is another one then
        plain, small = (run(p, opt_state)[2] for p in params)
        np.testing.assert_allclose(small - plain, np.full(plain.shape, logit), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": 1.0}, "model.prior is 1.0; it must be a number, 1e-06 to 0.999999"),
        ({"prior": 0.05, "reading": "text"}, "model.prior is 0.05 and model.reading 'text'"),
        ({"name": "isaa"}, "model.name is 'isaa'; choose one of\ncbam "),
        ({"name": "vnet", "decoder": "shared"}, "model.decoder is 'shared', and vnet has no such"),
        ({"name": "sk", "width": 6}, "multiple of 4"),
        ({"name": "an2021", "levels": 2}, "at least 3"),
    ],
)
def test_settings_that_a_system_cannot_take_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        systems.create(systems.resolve(16, settings("isa", levels=3) | changes), jax.random.key(0))


def test_a_config_has_its_own_systems_size_however_it_is_made():
    for made in (
        systems.resolve(128, {"name": "xie2021"}),
        systems.resolve(128, settings("xie2021", width=0, levels=0)),
    ):
        assert (made.width, made.levels) == (32, 6)
    made = systems.resolve(144, {})
    assert (
        (made.name, made.width, made.levels)
        == ("isa", 16, 5)
        == (*(ModelConfig().name, ModelConfig().width, ModelConfig().levels),)
    )


def test_what_a_system_does_not_read_is_named_in_order():
    assert systems.unread_settings("vnet") == [
        *("decoder", "deep_supervision", "encoder_attention", "fusion", "fusion_weights"),
        *("kernels", "reading", "strides", "weight_scale"),
    ]
    assert systems.unread_settings("isa") == ["deep_supervision", "kernels", "strides"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vnet", {"fusion": "product"}),
        ("isa", {"deep_supervision": True}),
        ("unet", {"encoder_attention": False}),
        ("se", {"weight_scale": "mean"}),
        ("xie2020", {"fusion_weights": (1.0, 0.5)}),
    ],
)
def test_settings_that_a_system_does_not_read_are_refused(name, changes):
    (key,) = changes
    with pytest.raises(ConfigError, match=f"model.{key} is .*, and {name} has no such part"):
        systems.resolve(64, {"name": name, **changes})
    old = systems.resolve(64, {"name": name, **changes}, is_new=False)  # of a run from before
    assert getattr(old, key) == changes[key]


@pytest.mark.parametrize(("modalities", "channels"), [(("ct",), [0]), (("pet",), [1])])
@pytest.mark.parametrize("name", ["vnet", "iantsen2020", "xie2020", "an2021"])
def test_a_system_is_built_for_the_chosen_modality(name, modalities, channels, generator):
    changes = {"width": 4, "levels": 3, "modalities": modalities}
    config = systems.resolve(16, settings(name, **changes))
    graphdef, params = systems.create(config, jax.random.key(0))
    image = generator.random((1, 16, 16, 16, 2), np.float32)
    # It fails where a convolution was made for another number of images.
    output = jax.eval_shape(lambda p, x: systems.apply(graphdef, p, x), params, image)
    assert output.logits.shape == (1, 16, 16, 16, 1)
    np.testing.assert_array_equal(network_input(image, config), image[..., channels])
