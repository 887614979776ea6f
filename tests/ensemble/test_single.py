from ensemble.made import candidates, member

from fmray.ensemble.single import single


def test_the_best_member_speaks_and_of_equals_the_earlier_one():
    outputs = [[[0.5, 0.5]] * 2, [[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.2, 0.8]]]
    assert single(candidates(outputs, [0, 1])).members == (11,)


def test_lower_is_better_where_the_metric_says_so():
    outputs = [[[1.0], [2.0]], [[1.5], [2.5]]]
    assert single(candidates(outputs, [1.5, 2.5], "mse")).members == (11,)
    assert single(candidates(outputs, [1.5, 2.5], "r2")).members == (11,)


def test_of_configurations_trained_again_the_best_on_average_speaks_by_its_median_seed():
    right = [0.55, 0.95, 0.6, 0.9, 0.7, 0.8]  # the luckiest seed is of the configuration that is worse on average
    outputs = [[[share, 1 - share]] * 4 for share in right]
    members = tuple(
        member(10 + i, role="finalist", params={"finalist of": i // 3, "train.seeds": i % 3}) for i in range(6)
    )
    found = single(candidates(outputs, [0] * 4, members=members))
    assert found.members == (15,)
    assert found.reason == "median of 3 seeds of the configuration of member 1, on average the best of 2"
