from ensemble.made import candidates

from fmray.ensemble.single import single


def test_the_best_member_speaks_and_of_equals_the_earlier_one():
    outputs = [[[0.5, 0.5]] * 2, [[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.2, 0.8]]]
    assert single(candidates(outputs, [0, 1])).members == (11,)


def test_lower_is_better_where_the_metric_says_so():
    outputs = [[[1.0], [2.0]], [[1.5], [2.5]]]
    assert single(candidates(outputs, [1.5, 2.5], "mse")).members == (11,)
    assert single(candidates(outputs, [1.5, 2.5], "r2")).members == (11,)
