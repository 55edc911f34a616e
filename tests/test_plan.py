import pytest

from learngene.errors import LearngeneError
from learngene.plan import StagePlan, parse_depths


def test_published_plan():
    plan = StagePlan((3, 3, 4, 3, 3))
    assert plan.depth == 16
    assert plan.first_layers == (0, 3, 6, 10, 13)
    assert plan.last_layers == (2, 5, 9, 12, 15)
    assert plan.stage_of_layer == (0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4)
    assert str(plan) == "3,3,4,3,3"


@pytest.mark.parametrize(
    ("depth", "repeats"),
    [
        (6, (2, 1, 1, 1, 1)),
        (8, (2, 2, 2, 1, 1)),
        (9, (2, 2, 2, 2, 1)),
        (10, (2,) * 5),
        (12, (3, 3, 2, 2, 2)),
        (15, (3,) * 5),
        (22, (5, 5, 4, 4, 4)),
    ],
)
def test_balanced_spreads_extras_to_the_earliest_stages(depth, repeats):
    assert StagePlan.balanced(depth, 5).repeats == repeats


def test_balanced_gives_the_published_map():
    assert StagePlan.balanced(12, 5).stage_of_layer == (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4)


def test_fewer_layers_than_stages_is_refused_but_can_be_said():
    with pytest.raises(LearngeneError, match=r"depth 4 is less than the 5 stages.*1,1,1,1,0"):
        StagePlan.balanced(4, 5)
    assert StagePlan((2, 0, 1)).stage_of_layer == (0, 0, 2)


def test_an_empty_stage_has_no_first_layer():
    with pytest.raises(LearngeneError, match="stage 1 has no layer"):
        _ = StagePlan((2, 0, 1)).first_layers


@pytest.mark.parametrize("plan", ["3,x", "", "3,,3", "3;3", "1.5,2", "3 3"])
def test_not_numbers(plan):
    with pytest.raises(LearngeneError, match=r"not a list of whole numbers.*3,3,4,3,3"):
        StagePlan.parse(plan)


@pytest.mark.parametrize(
    ("plan", "message"),
    [("-1,2", "negative"), ("0,0", "no layer"), ((1.5, 2), "whole number"), ((True,), "whole number")],
)
def test_bad_plans(plan, message):
    with pytest.raises(LearngeneError, match=message):
        StagePlan.parse(plan)


def test_parse_takes_all_forms():
    assert StagePlan.parse("3, 3,4") == StagePlan.parse([3, 3, 4]) == StagePlan.parse(StagePlan((3, 3, 4)))
    assert hash(StagePlan((1, 2))) == hash(StagePlan((1, 2)))


@pytest.mark.parametrize(
    ("said", "depths"),
    [
        (6, [6]),
        ("6", [6]),
        ("4-7", [4, 5, 6, 7]),
        ("6-6", [6]),
        ([9, 4, 6, 4], [4, 6, 9]),
        ([4, "6-8"], [4, 6, 7, 8]),
        ("4 6-8", [4, 6, 7, 8]),
        ("4,6, 9", [4, 6, 9]),
        (range(4, 7), [4, 5, 6]),
    ],
)
def test_depths_and_ranges_of_them(said, depths):
    assert parse_depths(said) == depths


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("9-4", "'9-4' run backwards; write 4-9"),
        ("a-b", "'a-b' is neither a whole number of layers nor a range"),
        ("4-", "'4-' is neither"),
        ("4-6-8", "'4-6-8' is neither"),
        ("1_0", "'1_0' is neither"),
        ("٤", "is neither"),
        ([4, 6.5], "'6.5' is neither"),
        ([True], "'True' is neither"),
        (0, "depth 0: a model has at least 1 layer"),
        ("0-4", "depth 0-4: a model has at least 1 layer"),
        (["-3"], "depth -3: a model has at least 1 layer"),
        ("4-999999999", "above 1000 is refused"),
        ([4, 10**12], "is neither|above 1000"),
        ([], "no depth was given"),
        (" ", "no depth was given"),
    ],
)
def test_bad_depths(said, message):
    with pytest.raises(LearngeneError, match=message):
        parse_depths(said)
