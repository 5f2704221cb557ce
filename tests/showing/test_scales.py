"""Scales: what moved is seen, spikes do not flatten the rest, and what is far away is for the edge to name."""

import math
from types import SimpleNamespace

import pytest

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.showing.look import panels
from keras_adaptive_weights.showing.scales import Scale, joined, scale_of
from keras_adaptive_weights.showing.view import View

PANELS = {panel.id: panel for panel in panels()}


def seen(**figures):
    length = len(next(iter(figures.values())))
    buckets = [
        {
            "last": i + 1,
            "figures": {
                name: values[i] if isinstance(values[i], list) else [values[i]] * 3 for name, values in figures.items()
            },
        }
        for i in range(length)
    ]
    return View(first=1, last=length, steps=length, buckets=buckets)


def scale(panel, view, events=(), intent=None, loss_limit=None, **config):
    header = {"config": AdaptiveWeightConfig(**config).to_dict(), "base_weight": 2.5}
    about = {"headers": [header], "events": list(events), "intent": intent, "loss_limit": loss_limit}
    return scale_of(PANELS[panel], view, SimpleNamespace(**about))


def test_a_weight_that_moved_by_more_than_a_factor_of_ten_is_on_a_logarithmic_scale():
    kind, low, high = scale("weight", seen(weight=[0.025] * 20 + [1.5] * 80))
    assert kind == "log"
    assert 0.01 < low < 0.025
    assert 1.5 < high < 3.0


def test_parts_of_the_gradient_are_from_0_and_the_intent_is_within():
    assert scale("share", seen(share=[0.2, 0.3])) == ("linear", 0.0, pytest.approx(0.318))
    assert scale("share", seen(share=[0.2, 0.3]), intent=0.6).high == pytest.approx(0.636)


def test_the_limit_of_a_loss_is_within():
    assert scale("loss", seen(loss=[2.0, 3.0]), loss_limit=1.5).low < 1.5


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ([Scale("linear", 1.0, 2.0), Scale("linear", 0.5, 1.5)], ("linear", 0.5, 2.0)),
        ([Scale("linear", 1.0, 2.0), Scale("linear", 0.01, 0.02)], ("log", 0.01 / 200**0.06, 2.0 * 200**0.06)),
        ([Scale("log", 1.0, 20.0), Scale("linear", 3.0, 4.0)], ("log", 1.0, 20.0)),
        ([Scale("log", 1.0, 20.0), Scale("linear", -3.0, 4.0)], ("linear", -3.0, 20.0)),
        ([Scale("linear", 0.1, 20.0)], ("linear", 0.1, 20.0)),
        ([Scale("root", 0.0, 2.0)], ("root", 0.0, 2.0)),
    ],
)
def test_one_scale_for_several_curves(scales, expected):
    assert joined(scales) == (expected[0], *map(pytest.approx, expected[1:]))


def test_a_single_change_of_five_per_cent_takes_a_third_of_the_height():
    kind, low, high = scale("weight", seen(weight=[2.5] * 50 + [2.381] * 20 + [2.5] * 50))
    assert kind == "linear"
    assert (2.5 - 2.381) / (high - low) > 0.33
    assert low < 2.381
    assert high > 2.5


def test_a_weight_that_never_moved_has_room_around_it():
    _, low, high = scale("weight", seen(weight=[2.5] * 10))
    assert low == pytest.approx(2.5 - (high - 2.5))
    assert 0.2 < high - low < 0.6


def test_a_bound_that_is_near_is_within_and_one_that_is_far_is_not():
    _, low, high = scale("weight", seen(weight=[4.2, 4.6, 4.8]))
    assert low > 2.5
    assert high > 5.0


def test_an_event_in_view_is_within_also_where_no_step_followed_it():
    event = {"step": 10, "old_weight": 2.5, "new_weight": 2.8}
    assert scale("weight", seen(weight=[2.5] * 10), [event]).high > 2.8
    assert scale("weight", seen(weight=[2.5] * 5), [event]).high < 2.8, "not in view"


def test_a_spike_does_not_set_the_scale_and_noise_is_within():
    losses = [0.2 + 0.02 * math.sin(i) for i in range(300)]
    losses[100], losses[200] = 0.26, 58.0
    _, _, high = scale("loss", seen(loss=losses))
    assert 0.26 < high < 0.5


def test_a_spike_in_every_bucket_does_not_set_the_scale_either():
    buckets = [[0.19, 50.0, 0.2 + 0.02 * math.sin(i)] for i in range(300)]
    assert scale("loss", seen(loss=buckets)).high < 60.0
    few = [[0.19, 50.0 if i % 2 else 0.24, 0.2 + 0.02 * math.sin(i)] for i in range(300)]
    assert scale("loss", seen(loss=few)).high < 0.5


@pytest.mark.parametrize(
    ("losses", "kind"),
    [
        ([10.0 * 0.98**i for i in range(300)], "log"),
        ([1.0 - 0.002 * i for i in range(300)], "linear"),
        ([0.0, *(10.0 * 0.98**i for i in range(300))], "linear"),
        ([5.0 - 0.1 * i for i in range(300)], "linear"),
        ([-3.0] * 20, "linear"),
        ([math.nan] * 5, "linear"),
    ],
)
def test_losses_over_more_than_a_factor_of_ten_are_logarithmic_where_they_are_positive(losses, kind):
    found = scale("loss", seen(loss=losses))
    finite = [loss for loss in losses if math.isfinite(loss)]
    assert found.kind == kind
    assert found.low < found.high
    assert all(-0.1 < found.place(loss) <= 1.0 for loss in finite)


def test_the_variance_is_cut_at_eight_times_its_threshold():
    assert scale("variance", seen(loss_variance=[0.01] * 50 + [300.0] * 20)) == Scale("root", 0.0, pytest.approx(4.24))
    assert scale("variance", seen(loss_variance=[0.01] * 50)).high > 0.5, "the threshold is within"


def test_a_threshold_far_above_the_norms_is_for_the_edge():
    assert scale("gradient", seen(gradient_norm=[0.3] * 50), gradient_norm_threshold=5.0).high < 1.0
    assert scale("gradient", seen(gradient_norm=[3.0] * 50), gradient_norm_threshold=5.0).high > 5.0


@pytest.mark.parametrize("panel", sorted(PANELS))
def test_nothing_in_view_has_a_scale_all_the_same(panel):
    found = scale(panel, View())
    assert found.low < found.high
    assert found.place(found.low) == 0.0
    assert found.place(found.high) == 1.0


@pytest.mark.parametrize(("kind", "middle"), [("linear", 50.5), ("log", 10.0), ("root", 30.25)])
def test_a_place_is_where_it_is_drawn(kind, middle):
    assert Scale(kind, 1.0, 100.0).place(middle) == pytest.approx(0.5)
