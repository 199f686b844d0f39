"""mirp's features, as this package asks for them, on the IBSI's digital phantom."""

import numpy as np
import pytest

from isanet_jax.quantify.radiomics import features
from isanet_jax.volume import Volume

# Planes of rows; 0: outside the region. 2 mm voxels (IBSI reference manual, section 5.1).
PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ],
    np.float32,
).transpose(2, 1, 0)
# Of the manual; the textures here do not depend on the number of the first grey level.
REFERENCE = {
    "morph_volume": 556,
    "morph_vol_approx": 592,
    "stat_mean": 2.15,
    "stat_var": 3.05,
    "stat_skew": 1.08,
    "cm_contrast_d1_3d_v_mrg": 5.12,
    "cm_dissimilarity_d1_3d_v_mrg": 1.38,
    "szm_sze_3d": 0.255,
    "szm_lze_3d": 550,
    "szm_glnu_3d": 1.4,
    "szm_zs_var_3d": 331,
}


def test_the_digital_phantom():
    pytest.importorskip("mirp", reason="needs mirp: pip install '.[features]'")
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    found = features(Volume(PHANTOM > 0, affine), Volume(PHANTOM, affine), bin_suv=1.0)
    for name, value in REFERENCE.items():
        (key,) = [k for k in found if k == name or k.startswith(f"{name}_fbs")]
        assert found[key] == pytest.approx(value, rel=5e-3), name  # of three digits
    empty = Volume(PHANTOM > 9, affine)
    assert features(empty, Volume(PHANTOM, affine)) == {}
