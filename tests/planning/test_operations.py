import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import SingleDeviceSharding

from isanet_jax.planning import plan as planning
from isanet_jax.planning.operations import (
    Convolution,
    Operations,
    convolutions,
    operations,
    roofline_seconds,
)
from isanet_jax.planning.plan import Plan, has_gpu_compiler, target_mesh
from isanet_jax.settings import read

needs_compiler = pytest.mark.skipif(
    not has_gpu_compiler(), reason="no jax-cuda12-plugin; requirements-dev.txt installs it"
)
TEXT = """HloModule jit_step

%product (a: f32[4,8], b: f32[8,6]) -> f32[4,6] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,6]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,6]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: bf16[1,5,5,5,2], k: bf16[3,3,3,3,2]) -> f32[4,6] {
  %x = bf16[1,5,5,5,2]{4,3,2,1,0} parameter(0)
  %k = bf16[3,3,3,3,2]{4,3,2,1,0} parameter(1)
  %call.1 = (bf16[1,5,5,5,3]{4,3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3x3 pad=1_1x1_1x1_1}, dim_labels=b012f_o012i->b012f, custom_call_target="__cudnn$convForward", metadata={op_name="a"}
  %get.1 = bf16[1,5,5,5,3]{4,3,2,1,0} get-tuple-element(%call.1), index=0
  %filter.1 = (bf16[3,3,3,3,2]{4,3,2,1,0}, u8[0]{0}) custom-call(%x, %get.1), window={size=3x3x3}, dim_labels=b012f_o012i->b012f, custom_call_target="__cudnn$convBackwardFilter"
  %transpose_fusion = f32[4,8]{1,0} fusion(%get.1), kind=kInput, calls=%other
  %slice.1 = f32[8,6]{1,0} fusion(%get.1), kind=kLoop, calls=%other
  %wrapped_slice.1 = f32[2]{0} fusion(%transpose_fusion), kind=kLoop, calls=%other
  ROOT %gemm_fusion_dot.1 = f32[4,6]{1,0} fusion(%transpose_fusion, %slice.1), kind=kCustom, calls=%product
}
"""  # noqa: E501


def test_calls_bytes_and_operations_are_read_from_the_text():
    image, kernel, out = 250 * 2, 162 * 2, 375 * 2
    found = operations(TEXT)
    assert found == {
        "convolution": Operations(1, image + kernel + out, 2.0 * 375 * 27 * 2),
        "convolution, gradient of the kernel": Operations(
            1, image + out + kernel, 2.0 * 375 * 27 * 2
        ),
        "transpose": Operations(1, out + 32 * 4, 0.0),
        "matrix product": Operations(1, (32 + 48 + 24) * 4, 2.0 * 4 * 6 * 8),
        "slice": Operations(2, 2 * 48 * 4 + 2 * 2 * 4, 0.0),
    }
    both = convolutions(TEXT)
    layout = "b012f_o012i->b012f"
    assert both[0] == Convolution("convolution", (3, 3, 3), layout)
    assert [each.kind for each in both] == ["convolution", "convolution, gradient of the kernel"]


def test_the_roofline_sums_what_is_bound_by_operations_and_by_memory():
    found = {"convolution": Operations(2, 100, 5000.0), "element-wise": Operations(1, 300, 0.0)}
    assert roofline_seconds(found, 1000.0, 100.0) == {"convolution": 5.0, "element-wise": 3.0}


def text_of(config):
    """The compiled text of a config's train step for an H100."""
    plan = Plan(read(config), "h100")
    cost = plan.train_step(1)
    assert cost.operations == operations(plan.text)
    big = cost._replace(flops=494.7e12, argument_bytes=2 * 3.35232e12)
    assert plan.fastest_seconds(big, 1) == pytest.approx(2.0)  # bound by its reads
    assert plan.fastest_seconds(big._replace(flops=3 * 494.7e12), 1) == pytest.approx(3.0)
    assert plan.fastest_seconds(big._replace(flops=5 * 494.7e12), 2) == pytest.approx(2.5)
    assert sum(plan.roofline(cost).values()) >= plan.fastest_seconds(cost, 1) > 0
    return plan.text


@needs_compiler
@pytest.mark.parametrize("name", ["isa", "xie2021"])
def test_no_window_of_a_step_is_larger_than_its_kernel(config, name):
    model = config["model"] | {"name": name, "levels": 2 if name == "isa" else 3, "width": 2}
    text = text_of(config | {"model": model})
    calls = convolutions(text)
    assert max(max(call.window) for call in calls) <= 5
    # Every kernel that a convolution has gets its gradient from a call that is made for it.
    kinds = [call.kind for call in calls]
    assert kinds.count("convolution, gradient of the kernel") >= kinds.count("convolution") / 2 > 4
    assert " convolution(" not in text
    assert "select-and-scatter" not in text
    assert {call.layout.split("_")[0] for call in calls} == {"b012f"}  # channels last


@needs_compiler
def test_a_dilated_convolutions_own_gradient_is_a_window_as_large_as_the_volume():
    """What the test above would find: JAX's rule for the kernel of a transposed convolution."""

    def upsample(x, kernel):
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        return lax.conv_general_dilated(
            x, kernel, (1,) * 3, ((1, 2),) * 3, lhs_dilation=(2,) * 3, dimension_numbers=numbers
        ).sum()

    here = SingleDeviceSharding(target_mesh("h100", 1).devices.flat[0])
    x, kernel = (
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=here)
        for shape in ((1, 8, 8, 8, 4), (3, 3, 3, 4, 4))
    )
    with planning._not_kept():
        compiled = jax.jit(jax.grad(upsample, 1)).lower(x, kernel).compile()
    assert max(max(call.window) for call in convolutions(compiled.as_text())) >= 8
