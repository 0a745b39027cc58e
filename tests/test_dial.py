"""A share of the FFN's bytes finds its operating point, and rows between tiers lie between their results."""

import pytest
import torch

from moesaic.models.compute import OperatingPoints
from moesaic.models.dial import Dial
from moesaic.models.errors import InvalidRequest, Unsupported
from moesaic.models.record import TierRecord

HIGH = TierRecord("high", 0.7, {"bytes_share": 0.71, "between": [[0.25, 0.9], [0.5, 0.8], [0.75, 0.74]]})
LOW = TierRecord("low", 0.5, {"bytes_share": 0.49})
DIAL = Dial.of([HIGH, LOW])


@pytest.mark.parametrize(("share", "point"), [(1, 0), (0.9, 0.25), (0.85, 0.375), (0.71, 1), (0.6, 1.5), (0.49, 2)])
def test_a_share_lies_on_straight_lines_between_what_calibration_saw(share: float, point: float) -> None:
    assert DIAL.operating_point(None, share) == pytest.approx(point)


def test_less_share_is_never_an_earlier_operating_point() -> None:
    points = [DIAL.operating_point(None, share / 1000) for share in range(1000, 489, -1)]
    assert points == sorted(points) and points[0] == 0 and points[-1] == 2


def test_no_share_is_answered_with_more_than_the_full_tier_reads() -> None:
    beyond = TierRecord("high", 0.7, {"bytes_share": 0.71, "between": [[0.0, 1.1], [0.5, 0.9]]})
    dial = Dial.of([beyond, LOW])
    assert dial.shares == (1.0, 0.71, 0.49)
    assert [dial.operating_point(None, share) for share in (1, 0.9999, 0.95, 0.9)] == pytest.approx(
        [0, 0.25, 0.375, 0.5], abs=1e-3
    )


def test_a_share_that_no_operating_point_reads_is_answered_with_less() -> None:
    refined = TierRecord("high", 0.7, {"bytes_share": 0.71, "between": [[0.0, 0.9], [0.5, 0.8]]})
    dial = Dial.of([refined, LOW])
    assert [dial.operating_point(None, share) for share in (0.99, 0.9)] == pytest.approx([0, 0], abs=1e-5)
    assert dial.operating_point(None, 0.99) > 0 and dial.name(dial.operating_point(None, 0.99)) == ""


def test_a_flat_piece_and_equal_tiers_leave_the_rest_of_the_dial_as_it_is() -> None:
    flat = TierRecord(
        "high", 0.7, {"bytes_share": 0.71, "between": [[0.0, 1.1], [0.25, 1.1], [0.5, 0.91], [0.75, 0.91]]}
    )
    dial = Dial.of([flat, TierRecord("same", 0.7, {"bytes_share": 0.71}), LOW])
    assert [dial.operating_point(None, share) for share in (0.91, 0.81, 0.71, 0.6, 0.49)] == pytest.approx(
        [0.5, 0.875, 1, 2.5, 3]
    )


def test_what_calibration_saw_between_two_tiers_is_held_between_them() -> None:
    low = TierRecord("low", 0.5, {"bytes_share": 0.5, "between": [[0.25, 0.72], [0.5, 0.6], [0.75, 0.49]]})
    assert [share for _, share in Dial.of([HIGH, low]).points[-4:]] == [0.71, 0.6, 0.5, 0.5]


def test_tiers_have_their_names_and_what_lies_between_has_none() -> None:
    for tier, name in ((None, "full"), ("", "full"), ("high", "high"), ("low", "low")):
        assert DIAL.name(DIAL.operating_point(tier, None)) == name
    assert DIAL.name(DIAL.operating_point(None, 0.6)) == ""


def test_a_dial_that_does_not_fall_takes_names_alone() -> None:
    dial = Dial.of([LOW, HIGH])
    assert dial.operating_point("high", None) == 2
    with pytest.raises(Unsupported, match="name one: full, low, high"):
        dial.operating_point(None, 0.6)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01, float("nan"), float("inf")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(InvalidRequest, match="above 0"):
        DIAL.operating_point(None, share)


def test_rows_between_tiers_take_what_lies_on_the_line() -> None:
    table = torch.tensor([[0.0, 0.0], [2.0, 8.0], [4.0, 10.0]])
    mixed = OperatingPoints([1.5, 0, 2, 0.25], torch.device("cpu"))
    assert mixed.at(table).tolist() == [[3.0, 9.0], [4.0, 10.0], [0.5, 2.0]] and mixed.num_full == 1
    rows = torch.arange(4)
    assert rows[mixed.full_rows].tolist() == [1] and rows[mixed.sparse_rows].tolist() == [0, 2, 3]
    assert OperatingPoints([2, 1], torch.device("cpu")).at(table).tolist() == [[4.0, 10.0], [2.0, 8.0]]
