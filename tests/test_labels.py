"""Golden masks of the larger data sets, and the slow references of the protocols."""
import hashlib
import inspect

import numpy as np
import pytest
import torch

from trmml.labels import check_labels, describe, partial, ratio_counts, show_labels, show_ratios, show_statistics, single_positive, statistics, validation_split

GOLDEN = [  # shape, ratio, entries kept, first 16 hex digits of sha256(packbits)
    ((5011, 20), .1, 10108, '6c449e375ae8f362'), ((5011, 20), .5, 50163, 'eaf149bf815e9948'),
    ((5011, 20), .9, 90174, 'aff8ef4f90852eea'),
    ((82081, 80), .1, 656667, '995bc4ad39ca9dab'), ((82081, 80), .5, 3282035, 'bb12fbe961fd9a95'),
    ((82081, 80), .9, 5910090, 'eb6c3cecc75da2fe'),
    ((82783, 80), .1, 662191, 'cd1ca8f2708f7fdd'), ((82783, 80), .5, 3310164, 'b18980ff94cd5a22'),
    ((82783, 80), .9, 5960741, '5bc31cacac454f46'),
    ((82904, 200), .1, 1659060, 'ad8ee2291cbf5e5e'), ((82904, 200), .5, 8289679, '0426d5bcab8fa770'),
    ((82904, 200), .9, 14923881, '840a0e4e4aa2f03a')]


@pytest.mark.parametrize('shape, known, count, digest', GOLDEN, ids=lambda v: str(v))
def test_golden_masks(shape, known, count, digest):
    kept = partial(np.ones(shape, np.int8), known) == 1
    assert kept.sum() == count
    assert hashlib.sha256(np.packbits(kept).tobytes()).hexdigest()[:16] == digest


def sample(n=300, c=12, seed=0):
    return np.where(np.random.RandomState(seed).random_sample((n, c)) < .2, 1, -1).astype(np.int8)


@pytest.mark.parametrize('seed', [0, 1, 1200])
def test_masks_are_nested_over_all_ratios(seed):
    Y = sample()
    masks = [partial(Y, p / 10, seed) != 0 for p in range(1, 11)]
    for few, more in zip(masks, masks[1:]):
        assert (few <= more).all() and few.sum() < more.sum()
    assert masks[-1].all()


def test_partial_of_partial_labels_only_hides_more():
    Y = partial(sample(), .5, seed=3)
    again = partial(Y, .5, seed=4)
    assert ((again == Y) | (again == 0)).all() and .2 < (again != 0).mean() < .3


def test_role_draw_is_the_sequential_one():
    Y, rng = sample(), np.random.RandomState(1200)
    expected = np.zeros_like(Y)
    for n in range(len(Y)):  # as in the ROLE code: both shuffles, although no negative is kept
        pos, neg = np.nonzero(Y[n] == 1)[0], np.nonzero(Y[n] == -1)[0]
        rng.shuffle(pos)
        if len(pos): expected[n, pos[0]] = 1
        rng.shuffle(neg)
    assert (single_positive(Y, 1200, 'role') == expected).all()


def test_single_positive_is_uniform_and_independent_of_the_number_of_positives():
    Y = np.concatenate([np.tile([1, 1, -1, -1], (20_000, 1)), np.tile([1, 1, 1, 1], (20_000, 1))])
    one = single_positive(Y)
    assert abs(one[:20_000, 0].mean() - .5) < .015
    assert abs(one[20_000:].mean(0) - .25).max() < .015


def test_protocols_do_not_touch_their_input():
    Y = sample()
    before = Y.copy()
    partial(Y, .1), single_positive(Y), single_positive(Y, setup='role'), statistics(Y), describe(Y)
    assert (Y == before).all()


@pytest.mark.parametrize('values', [torch.tensor([[1, 0, -1]]), torch.tensor([[1., 0, -1]], requires_grad=True),
                                    torch.tensor([[1, 0, -1]], dtype=torch.int8), np.array([[1., 0, -1]]),
                                    [[1, 0, -1]]])
def test_anything_array_like_is_accepted(values):
    Y = check_labels(values)
    assert Y.dtype == np.int8 and Y.tolist() == [[1, 0, -1]]


@pytest.mark.parametrize('values, words', [
    ([[1, 0], [0, 255]], 'label 255 in row 1, column 1'), ([[.5, 0]], 'label 0.5 in row 0, column 0'),
    ([[1, float('nan')]], 'label nan in row 0, column 1'), (np.uint8([[1, 255]]), 'label 255 in row 0, column 1'),
    ([[True, False]], 'True/False'), ([1, 0], '(images, classes)')])
def test_other_codes_are_refused(values, words):
    with pytest.raises(ValueError) as error: check_labels(values)
    assert words in str(error.value)


@pytest.mark.parametrize('share', [0, 1, -.1, 1.5])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(ValueError, match='expected a number between 0 and 1'): validation_split(10, share)


def test_a_label_matrix_in_numbers():
    Y = [[1, 0, -1], [0, 0, 0], [-1, 0, 1]]
    assert describe(Y, ['a', 'b', 'c']) == {
        'images': 3, 'classes': 3, 'positives': 2, 'negatives': 2, 'unknown': 5, 'known': 4/9, 'images without positives': 1,
        'images without labels': 1, 'classes without positives': ['b']}


def test_pictures_of_labels():
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    Y = partial(np.where(np.arange(40).reshape(20, 2) % 3, -1, 1), .5, 0)
    fig, axs = plt.subplots(1, 5)
    assert show_labels(Y, axs[0], 'known').get_title() == 'known' and axs[0].images[0].get_array().shape == (2, 20, 3)
    table = statistics(Y, ['a', 'b'])
    assert show_statistics(table, axs[1], 'a title').get_title() == 'a title' and axs[1].yaxis_inverted()
    widths = np.array([[r.get_width() for r in c] for c in axs[1].containers])
    assert (widths.sum(0) == 20).all() and [t.get_text() for t in axs[1].get_yticklabels()] == ['a', 'b']
    assert {r.get_x() for r in axs[1].containers[1]} == set(table.positives)          # bars stand behind each other
    ratios = inspect.signature(ratio_counts).parameters['ratios'].default
    assert ratios == inspect.signature(show_ratios).parameters['ratios'].default
    counts = ratio_counts(Y)
    assert counts['positives'].shape == (2, len(ratios)) and (np.diff(counts['positives'], axis=1) >= 0).all()
    show_ratios(counts, axs[2:])
    assert not axs[2].get_yticks().size and [t.get_text() for t in axs[2].get_xticklabels()] == ['10%', '30%', '50%', '70%', '90%']
    show_ratios(counts, axs[2:], ['a', 'b'])
    most = ['a', 'b'][counts['positives'][:, -1].argmax()]
    assert axs[2].get_yticklabels()[0].get_text() == most
    plt.close(fig)


def test_the_default_draw_is_uniform():
    "One number an entry, the largest of a row's positives: not the draw of the ROLE code, which moves on by shuffles."
    Y = np.where(np.random.RandomState(3).rand(40, 6) < .5, 1, -1)
    u = np.random.RandomState(5).random_sample(Y.shape)
    want = [[int(y == 1 and x == max(np.where(row == 1, d, -1))) for y, x in zip(row, d)] for row, d in zip(Y, u)]
    assert single_positive(Y, 5).tolist() == want != single_positive(Y, 5, 'role').tolist()


def test_counts_by_ratio_are_those_of_seed_0():
    "The name of the index; the seed; the order of the map, by the last ratio."
    Y = np.where(np.random.RandomState(1).rand(60, 5) < .5, 1, -1)
    assert statistics(Y).index.name == 'class' == statistics(Y, list('abcde')).index.name
    for kind, found in ratio_counts(Y, (.3, .9)).items(): assert np.array_equal(found[:, 0], statistics(partial(Y, .3, 0))[kind])
    few = dict(positives=np.array([[9, 1], [5, 7], [1, 3]]), negatives=np.zeros((3, 2)), unknown=np.zeros((3, 2)))
    import matplotlib
    matplotlib.use('agg')
    from matplotlib import pyplot as plt
    axs = plt.subplots(1, 3)[1]
    show_ratios(few, axs, list('abc'), (.1, .9))
    assert [t.get_text() for t in axs[0].get_yticklabels()] == ['b', 'c', 'a']
