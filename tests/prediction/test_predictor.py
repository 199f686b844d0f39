import numpy as np

from isanet_jax.cases.grid import resample
from isanet_jax.prediction.predictor import to_ct_grid
from isanet_jax.scans.volume import Volume

OBLIQUE = np.array(
    [[-0.9, 0.1, 0.2, 10.0], [0.1, -1.1, 0.3, 20.0], [0.1, 0.2, 3.0, -30.0], [0, 0, 0, 1]]
)


def test_the_part_that_is_resampled_is_the_part_that_matters(generator):
    """Against resampling the whole CT grid, for fields inside, across and outside it."""
    values = generator.uniform(0.1, 1, (8, 8, 8)).astype(np.float32)
    ct = Volume(np.zeros((40, 44, 16)), OBLIQUE)
    reached = []
    for centre in ([20, 22, 8], [0, 40, 15], [39, 43, 0], [200, 0, 0]):
        affine = np.diag([2.0, -1.5, 1.0, 1.0])[[2, 1, 0, 3]]
        affine[:3, 3] = (OBLIQUE @ [*centre, 1])[:3] - affine[:3, :3] @ [3.5, 3.5, 3.5]
        out = to_ct_grid(values, affine, ct)
        expected = resample(Volume(values, affine), ct.data.shape, OBLIQUE, order=1, fill=0.0)
        np.testing.assert_allclose(out.data, expected, atol=1e-6)
        reached.append((out.data > 0).mean())
    assert reached[0] > max(reached[1], reached[2]) > 0
    assert reached[3] == 0
