import jax
import jax.numpy as jnp
import pytest

from isanet_jax.training.profile import StepTrace, operation_times, operations_table


def event(name, start, length, thread=1, module="jit_step"):
    args = {"hlo_module": module}
    place = {"pid": 1, "tid": thread, "ts": start, "dur": length}
    return {"ph": "X", "name": name, "args": args | {"hlo_op": name}} | place


EVENTS = [
    event("loop", 0, 100),
    event("body", 10, 30),
    event("inner", 12, 5),
    event("body", 50, 40),
    event("after", 100, 20),
    event("body", 5, 7, thread=2),
    event("validation", 120, 50, module="jit_predict"),
    {"ph": "X", "name": "python", "pid": 1, "tid": 1, "ts": 0, "dur": 999},
    {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "main"}},
]


@jax.jit
def step(x):
    return jnp.sin(x @ x)


def test_an_operations_time_is_without_those_that_it_calls():
    assert operation_times(EVENTS) == {
        "loop": (1, 30),
        "body": (3, 30 - 5 + 40 + 7),
        "inner": (1, 5),
        "after": (1, 20),
    }
    table = operations_table(EVENTS, 2)
    assert "0.1 ms a step in 4 operations" in table
    assert table.splitlines()[6] == "| body | 1.5 | 0.04 | 56.7 % |"


def test_steps_are_traced_after_the_first_two(tmp_path):
    x = jnp.ones((64, 64))
    trace, said = StepTrace(tmp_path, 3), []
    for _ in range(7):
        step(x).block_until_ready()
        said.append(trace.step_done())
    assert [message is not None for message in said] == [False] * 4 + [True] + [False] * 2
    assert "traced 3 steps" in said[4]
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert " | 1.0 | " in (tmp_path / "operations.md").read_text()


@pytest.mark.parametrize("steps", [0, 3])
def test_no_trace_is_left_open(tmp_path, steps):
    trace = StepTrace(tmp_path, steps)
    for _ in range(3):
        step(jnp.ones((2, 2))).block_until_ready()
        trace.step_done()
    message = trace.stop()
    assert (message is None) == (steps == 0)
    assert trace.stop() is None
    assert bool(list(tmp_path.iterdir())) == bool(steps)
