"""Classes of a label and kinds of images, by name."""

import json

import numpy as np
import pytest

from isanet_jax.cases.preparation import Settings, settings_of
from isanet_jax.classes import Classes, class_mask, parse_classes, parse_code
from isanet_jax.datasets import DATASETS, classes_of
from isanet_jax.datasets.layout import Scan
from isanet_jax.errors import ConfigError, DataError
from isanet_jax.kinds import KINDS, kind_of, parse_images, shown
from isanet_jax.volume import Volume

REGIONS = Classes({"whole": (1, 2, 3), "core": (2, 3), "hot": (3,)}, ignore=(9,), others=(4,))


def test_a_voxel_has_a_bit_for_each_of_its_classes():
    bits = REGIONS.bits(np.array([0, 1, 2, 3, 4, 9]))
    np.testing.assert_array_equal(bits, [0, 0b001, 0b011, 0b111, 0, 0b1000])
    np.testing.assert_array_equal(class_mask(bits, 1), [False, False, True, True, False, False])
    assert bits.dtype == np.uint8
    many = Classes({f"c{i}": (i + 1,) for i in range(15)}, ignore=(99,))
    bits = many.bits(np.array([15, 99]))
    np.testing.assert_array_equal(bits, [1 << 14, 1 << 15])


def test_regions_are_written_so_that_they_can_be_read_again():
    assert REGIONS.written == {"whole": 1, "core": 2, "hot": 3}
    label = np.array([0, 1, 2, 3])
    bits, out = REGIONS.bits(label), np.zeros(4, int)
    for index, value in enumerate(REGIONS.written.values()):
        out[class_mask(bits, index)] = value
    np.testing.assert_array_equal(out, label)
    assert Classes({"gtvp": (1,), "gtvn": (2,)}).written == {"gtvp": 1, "gtvn": 2}
    assert Classes({"nodes": (2, 3)}).written == {"nodes": 1}  # a mask of one class is 0 and 1
    several = Classes({"gtvp": (4, 2, 7), "gtvn": (9, 5, 4)})
    assert several.written == {"gtvp": 2, "gtvn": 4}  # the least that no later class covers


@pytest.mark.parametrize(
    ("values", "more", "message"),
    [
        ({}, {}, "0 classes; give 1 to 15"),
        ({f"c{i}": (i + 1,) for i in range(16)}, {}, "16 classes"),
        ({"a b": (1,)}, {}, "cannot be called 'a b'"),
        ({"../up": (1,)}, {}, "cannot be called"),
        ({"a": ()}, {}, r"has the values \[\]"),
        ({"a": (0, 1)}, {}, "not 0, which is no class"),
        ({"a": (1,)}, {"ignore": (1,)}, "the value 1 is of the class a, and is to be left out"),
        (
            {"core": (2,), "whole": (1, 2), "more": (1, 2)},
            {},
            "core is within classes.*Leave out whole, which is core, more together",
        ),
        (
            {"core": (2,), "whole": (1, 2)},
            {},
            "core is within.*wider classes first: whole, core",
        ),
        (
            {"t": (1, 2), "p": (1,), "n": (2,)},
            {},
            "t is within.*out t, which is p, n together",
        ),
    ],
)
def test_classes_that_cannot_be_are_refused(values, more, message):
    with pytest.raises(ConfigError, match=message):
        Classes(values, **more)


def test_classes_of_the_command_line():
    assert parse_classes(["gtvp=1", "gtvn=2,3"]) == {"gtvp": (1,), "gtvn": (2, 3)}
    for texts in (["gtvp"], ["gtvp="], ["gtvp=1,"], ["a=1", "a=2"]):
        with pytest.raises(ConfigError, match="give NAME=VALUE"):
            parse_classes(texts)
    with pytest.raises(ConfigError, match="gtvp=x are not understood; give each its values"):
        parse_classes(["gtvp=x"])


def test_what_a_label_holds_is_asked_for_in_one_way_at_a_time():
    dataset = DATASETS["table"]
    assert classes_of(dataset, None, []) == Classes()
    assert classes_of(dataset, None, [], values=(1, 2)).values == {"tumour": (1, 2)}
    assert classes_of(dataset, None, [], target="gtvn").others == (1,)
    two = classes_of(dataset, None, [], classes={"a": (2,)}, ignore=(3,))
    assert (two.ignore, two.others) == ((3,), (1,))  # 1 is known of tables, and stays so
    study = Scan("A", {}, None, "A", study=object())
    of_regions = classes_of(dataset, None, [study], classes={"a": ("GTV",), "b": ("LN",)})
    assert of_regions.values == {"a": (1,), "b": (2,)}
    with pytest.raises(ConfigError, match="names are for regions of DICOM"):
        classes_of(dataset, None, [], classes={"a": ("GTV",)})
    with pytest.raises(ConfigError, match="for masks with values, as NIfTI"):
        classes_of(dataset, None, [study], ignore=(3,))
    with pytest.raises(ConfigError, match="not several of them"):
        classes_of(dataset, None, [], values=(1,), classes={"a": (1,)})


def test_codes_are_the_datasets_or_those_that_are_given():
    of_hecktor = classes_of(
        DATASETS["hecktor"], None, [], classes={"gtvp": (1,), "gtvn": (2,), "other": (3,)}
    )
    assert of_hecktor.codes.keys() == {"gtvp", "gtvn"}
    given = {"gtvn": parse_code("SCT:94392001:Secondary malignant neoplasm of lymph node")}
    own = classes_of(DATASETS["table"], None, [], classes={"gtvn": (2,)}, codes=given)
    assert own.codes == given
    stored = json.loads(json.dumps(Settings(classes=own).to_json()))
    assert settings_of(stored).classes == own
    with pytest.raises(ConfigError, match="a code for gtvx, not a class"):
        classes_of(DATASETS["table"], None, [], classes={"a": (1,)}, codes={"gtvx": given["gtvn"]})
    for text in ("SCT:1", "SCT::Neoplasm", "S" * 17 + ":1:x", "SCT:1:a\\b", "SCT:1:" + "x" * 65):
        with pytest.raises(ConfigError, match="give SCHEME:VALUE:MEANING"):
            parse_code(text)


def test_images_of_the_command_line():
    images = parse_images("ct, pet,mr_t1,t2,uptake:pet,thing")
    assert images == {
        "ct": "ct", "pet": "pet", "mr_t1": "mr", "t2": "mr", "uptake": "pet", "thing": "other",
    }  # fmt: skip
    assert [shown(*item) for item in images.items()] == [
        "CT", "PET", "MR t1", "MR t2", "PET uptake", "image thing",
    ]  # fmt: skip
    assert kind_of("adc") == "mr"
    for text, message in (
        ("ct,ct", "named twice"),
        ("label", "cannot be called so"),
        ("ct,samples", "cannot be called so"),  # a member of a case's file
        ("ct,x1", "cannot be called so"),  # a column of a table
        ("../x", "cannot be called so"),
        ("", "cannot be called so"),
        ("x:mri", "choose from ct, pet, mr, other"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_images(text)


@pytest.mark.parametrize("kind", ["mr", "other"])
def test_images_without_a_unit_are_refused_only_where_there_is_nothing(kind):
    where = {"case": "A", "file": "a.nii"}
    image = Volume(np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.eye(4))
    assert KINDS[kind].check(image, where) == []
    for data in (image.data * 0 + 7, image.data * 1e36):
        with pytest.raises(DataError, match=r"case A, file a.nii: .* values from"):
            KINDS[kind].check(Volume(data, image.affine), where)


def test_a_voxel_that_nothing_is_known_of_belongs_to_no_class():
    classes = Classes({"a": (1,), "b": (2,)}, ignore=(9,))
    bits = classes.bits(np.array([0, 1, 2, 9]))
    np.testing.assert_array_equal(classes.any_of(bits), [False, True, True, False])
