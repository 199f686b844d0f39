"""A prediction's masks and values."""

import numpy as np

from isanet_jax.classes import Classes
from isanet_jax.prediction import result
from isanet_jax.prediction.result import Images, Prediction
from isanet_jax.prediction.rules import Rules
from isanet_jax.volume import Volume


def prediction(values, *probabilities):
    volumes = {
        name: Volume(np.float32(p).reshape(1, 1, -1), np.eye(4))
        for name, p in zip(values, probabilities, strict=True)
    }
    images = Images(None, {}, {"ct": "ct"})
    classes = Classes({name: v if isinstance(v, tuple) else (v,) for name, v in values.items()})
    return Prediction(images, volumes, classes, dict.fromkeys(values, Rules()))


def test_one_mask_whatever_its_format():
    """A core that sticks out of its lesion belongs to it; of two apart the last one counts."""
    values = {"whole": (1, 2), "core": (2,), "other": (5,)}
    found = prediction(
        values, [0.9, 0.9, 0.1, 0.1, 0.9], [0, 0.9, 0.9, 0, 0.9], [0, 0, 0, 0.9, 0.9]
    )
    np.testing.assert_array_equal(found.labels.ravel(), [1, 2, 2, 5, 5])
    masks = {name: mask.ravel().tolist() for name, mask in found.masks.items()}
    assert masks == {
        "whole": [True, True, True, False, False],
        "core": [False, True, True, False, False],
        "other": [False, False, False, True, True],
    }
    for name, mask in found.masks.items():
        np.testing.assert_array_equal(np.isin(found.labels, values[name]), mask)


def test_a_voxel_has_the_value_of_the_last_class_that_it_is_in():
    found = prediction({"a": 1, "b": 7}, [0.9, 0.9, 0.1, 0.5], [0.1, 0.9, 0.9, 0.49])
    np.testing.assert_array_equal(found.labels.ravel(), [1, 7, 7, 1])
    assert found.labels.dtype == np.uint8
    np.testing.assert_array_equal(found.mask.ravel(), [True] * 4)
    np.testing.assert_allclose(found.probability.ravel(), [0.9, 0.9, 0.9, 0.5])


def test_a_saved_mask_carries_no_identity_unless_it_is_asked_to(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(result, "write_outputs", lambda *_, **how: asked.append(how))
    found = prediction({"a": 1}, [0.9])
    found.save(tmp_path / "m.dcm", format="rtstruct")
    found.save(tmp_path / "m.dcm", format="rtstruct", keep_identity=True, overwrite=True)
    assert asked == [
        {"keep_identity": False, "overwrite": False},
        {"keep_identity": True, "overwrite": True},
    ]


def test_lesions_say_their_class_where_there_are_several():
    assert [row["class"] for row in prediction({"a": 1, "b": 2}, [0.9, 0], [0, 0.9]).lesions()] == [
        "a",
        "b",
    ]
    (row,) = prediction({"a": 1}, [0.9, 0]).lesions()
    assert "class" not in row


def test_a_value_above_255_does_not_wrap_around():
    found = prediction({"a": 1, "b": 300}, [0.9, 0.0], [0.0, 0.9])
    np.testing.assert_array_equal(found.labels.ravel(), [1, 300])
    assert found.labels.dtype == np.uint16
