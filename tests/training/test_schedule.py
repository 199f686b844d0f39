import pytest

from isanet_jax.training.schedule import cosine_schedule, poly_schedule, restart_schedule


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 3.0), (1, 2.9882), (5, 2.7145), (12, 1.5989), (13, 1.4111), (20, 0.2955), (24, 0.0218),
     (25, 3.0), (49, 0.0218), (50, 3.0)],
)  # fmt: skip
def test_the_papers_learning_rates(epoch, rate):
    schedule = restart_schedule(peak=3e-4, floor=1e-6, restart_epochs=25, steps_per_epoch=7)
    for step in (7 * epoch, 7 * epoch + 6):
        assert float(schedule(step)) == pytest.approx(rate * 1e-4, abs=1e-8)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 1.0), (500, 0.535887), (999, 0.001995), (1000, 0)])
def test_nnunets_learning_rates(epoch, rate):
    schedule = poly_schedule(peak=1.0, epochs=1000, steps_per_epoch=250)
    for step in (250 * epoch, 250 * epoch + 249):
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


def test_a_cosine_rises_linearly_and_falls_once():
    schedule = cosine_schedule(peak=1.0, floor=0.1, warmup_steps=10, steps=110)
    for step, rate in ((0, 0.0), (5, 0.5), (10, 1.0), (60, 0.55), (110, 0.1), (200, 0.1)):
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)
