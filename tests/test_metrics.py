"""Published scores reproduced, agreement with scikit-learn, speed, and awkward inputs."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from trmml.metrics import (average_precision, box_masks, decide, decision_metrics, energy_in_box, evaluate, map_iou,
                           mean_ap, pointing_game, pseudo_quality)

VOC = Path(__file__).resolve().parents[2]/'shared'/'data'/'voc2007_test_scores.npz'


@pytest.mark.skipif(not VOC.exists(), reason='shared/data/voc2007_test_scores.npz is not beside the repository')
@pytest.mark.parametrize('name, negative, ignored', [
    ('tai_global', 86.08, 86.81), ('tai_local', 73.51, 74.88), ('dualcoop_global', 86.29, 87.10),
    ('dualcoop_local', 94.18, 95.15)])
def test_published_scores(name, negative, ignored):
    data = np.load(VOC)
    scores, labels = data[name], data['targets']
    assert labels.shape == (4952, 20) and (labels == 0).any()
    assert round(100*mean_ap(scores, np.where(labels == 0, -1, labels)), 2) == negative
    assert round(100*mean_ap(scores, labels), 2) == ignored


def sample(n=500, c=9, seed=0, levels=None):
    g = torch.Generator().manual_seed(seed)
    s = torch.rand(n, c, generator=g)
    if levels: s = (s*levels).floor()/levels
    return s, torch.randint(-1, 2, (n, c), generator=g)


@pytest.mark.parametrize('levels', [None, 2, 10])
@pytest.mark.parametrize('kind', ['torch', 'numpy', 'float16', 'bfloat16'])
def test_agrees_with_scikit_learn(levels, kind):
    s, y = sample(levels=levels)
    s = s.to(getattr(torch, kind)) if 'float' in kind else s
    ours = average_precision(s.numpy() if kind == 'numpy' else s, y.numpy() if kind == 'numpy' else y)
    for c in range(9):
        known = (y[:, c] != 0).numpy()
        theirs = average_precision_score((y[:, c] == 1).numpy()[known], s[:, c].float().numpy()[known])
        assert abs(ours[c] - theirs) < 1e-10


def test_envelope_is_the_area_under_the_monotone_precision():
    s, y = sample(60, 3)
    for c in range(3):  # the usual VOC-2012 code, without ties
        order = [i for i in s[:, c].argsort(descending=True).tolist() if y[i, c] != 0]
        tp = np.cumsum([(y[i, c] == 1).item() for i in order])
        prec, rec = tp/np.arange(1, len(tp) + 1), tp/tp[-1]
        prec = np.maximum.accumulate(prec[::-1])[::-1]
        area = np.sum(np.diff(rec, prepend=0)*prec)
        assert abs(average_precision(s, y, rule='envelope')[c] - area) < 1e-12


# ---- the rules of published numbers

S5 = [[.9], [.8], [.7], [.5], [.5]]                                   # positives at ranks 2, 3 and 4 or 5: the last two share a score
EARLY, LATE = [[-1], [1], [1], [1], [-1]], [[-1], [1], [1], [-1], [1]]


@pytest.mark.parametrize('labels, rule, ties, expected', [
    (EARLY, 'plain', 'grouped', (1/2 + 2/3 + 3/5)/3), (LATE, 'plain', 'grouped', (1/2 + 2/3 + 3/5)/3),
    (EARLY, 'envelope', 'grouped', (2/3 + 2/3 + 3/5)/3), (LATE, 'envelope', 'grouped', (2/3 + 2/3 + 3/5)/3),
    (EARLY, 'plain', 'order', (1/2 + 2/3 + 3/5)/3), (LATE, 'plain', 'order', (1/2 + 2/3 + 3/4)/3),
    (EARLY, 'envelope', 'order', (2/3 + 2/3 + 3/5)/3), (LATE, 'envelope', 'order', 3/4)])
def test_rules_by_hand(labels, rule, ties, expected):
    assert abs(mean_ap(S5, labels, rule=rule, ties=ties) - expected) < 1e-12
    assert abs(evaluate(S5, labels, rule=rule, ties=ties)['mAP'] - expected) < 1e-12


def test_order_is_that_of_the_field():
    "Reversed argsort, a rank for each image, 1e-8 in the denominator: the code that most peers share, with a stable sort."
    s, y = sample(300, 6, levels=8); y = y.where(y != 0, -1)
    for c in range(6):
        found = total = 0.
        for rank, i in enumerate(np.argsort(s[:, c].numpy(), kind='stable')[::-1], 1):
            if y[i, c] == 1: found += 1; total += found/rank
        assert abs(average_precision(s, y, ties='order')[c] - total/(found + 1e-8)) < 1e-9
    assert (average_precision(s, y, ties='order') != average_precision(s, y)).all()
    alone = sample(300, 6)[0]; assert torch.equal(average_precision(alone, y, ties='order'), average_precision(alone, y))


def test_an_empty_class_is_left_out_or_zero():
    s, y = sample(50, 4); y[:, 2] = -1; ap = average_precision(s, y)
    assert ap[2].isnan() and average_precision(s, y, empty='zero')[2] == 0
    assert mean_ap(s, y, empty='zero') == pytest.approx(3/4*mean_ap(s, y)) and mean_ap(s, y) == pytest.approx(ap[[0, 1, 3]].mean().item())
    report = evaluate(s, y, empty='zero'); assert report['AP']['2'] == 0 and report['skipped'] == [] and evaluate(s, y)['skipped'] == ['2']
    for empty in 'skip', 'zero':
        with pytest.raises(ValueError, match='no class has a positive'): mean_ap(s, -torch.ones_like(y), empty=empty)


@pytest.mark.parametrize('wrong', [dict(rule='area'), dict(ties='mean'), dict(empty='nan'), dict(rule=True)])
def test_a_rule_that_there_is_not(wrong):
    (name, value), = wrong.items()
    with pytest.raises(ValueError, match=f'{name}={value!r}: use'): mean_ap(S5, LATE, **wrong)


def test_large():
    s, y = torch.rand(40_000, 80), torch.where(torch.rand(40_000, 80) < .04, 1, -1)
    assert abs(mean_ap(s, y) - .04) < .005


def test_classes_without_positive_are_reported_not_averaged():
    s, y = sample(50, 4)
    y[:, 2] = -1
    report = evaluate(s, y, ['a', 'b', 'c', 'd'])
    assert report['skipped'] == ['c'] and set(report['AP']) == {'a', 'b', 'd'}
    assert report['mAP'] == pytest.approx(np.mean([*report['AP'].values()]))
    kept = [0, 1, 3]
    assert decision_metrics(decide(s[:, kept]), y[:, kept])['CF1'] == pytest.approx(report['CF1'])
    assert json.loads(json.dumps(report)) == report


def test_decisions_by_hand():
    y = torch.tensor([[1, -1, 1], [1, 1, -1], [-1, -1, 0]])
    d = torch.tensor([[True, True, False], [True, False, False], [True, False, True]])
    m = decision_metrics(d, y)  # right 2 0 0; called 3 1 0 (the entry of label 0 is not counted); there 2 1 1
    assert m['CP'] == pytest.approx((2/3 + 0 + 0)/3) and m['CR'] == pytest.approx((1 + 0 + 0)/3)
    assert m['OP'] == pytest.approx(2/4) and m['OR'] == pytest.approx(2/4) and m['OF1'] == pytest.approx(.5)


def test_threshold_and_top_matter():
    s, y = sample()
    base = evaluate(s, y)
    assert evaluate(s, y, threshold=.8)['OR'] < base['OR']
    assert evaluate(s, y, top=1)['OR@1'] < base['OR@3'] < base['OR']
    assert (decide(s, threshold=0, top=100).all()) and decide(s, threshold=0, top=2).sum() == 2*len(s)


def test_inputs_are_not_changed():
    s, y = sample()
    before = s.clone(), y.clone()
    evaluate(s, y)
    assert torch.equal(s, before[0]) and torch.equal(y, before[1])


@pytest.mark.parametrize('s, y, words', [
    (torch.zeros(3, 2), torch.ones(2, 3), 'scores are (3, 2), labels (2, 3)'),
    (torch.full((2, 2), float('nan')), torch.ones(2, 2), 'nan'),
    (torch.zeros(2, 2), torch.full((2, 2), 2), 'label 2 in row 0, column 0'),
    (torch.zeros(2, 2), -torch.ones(2, 2), 'no class has a positive')])
def test_bad_inputs(s, y, words):
    with pytest.raises(ValueError) as error: mean_ap(s, y)
    assert words in str(error.value)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_region_metrics_on_a_perfect_map(dtype):
    masks = box_masks([[(.25, .25, .5, .5)], [(0, 0, .125, 1), (.5, .5, .5, .5)]], (8, 8))
    assert masks.sum((1, 2)).tolist() == [16, 8 + 16]
    maps = masks.to(dtype)
    for f in (pointing_game, energy_in_box, map_iou):
        assert torch.allclose(f(maps, masks), torch.ones(2))
        assert torch.allclose(f(maps.float().numpy(), masks.numpy()), torch.ones(2))
        assert torch.equal(f(maps, ~masks), torch.zeros(2))


def test_region_metrics_at_other_resolutions():
    coarse, fine = (box_masks([[(.25, .25, .5, .5)]], size) for size in ((8, 8), (64, 64)))
    blob = coarse.float()
    assert pointing_game(blob, fine).item() == 1
    assert energy_in_box(blob, fine).item() > .8 and map_iou(blob, fine).item() > .9
    assert energy_in_box(fine.float(), coarse).item() > .8
    corner = torch.zeros(1, 4, 4)
    corner[0, 1, 1] = 1  # its cell reaches from 16 to 32 of 64: the centre is at 24, not at 16
    for start, hit in ((20/64, 1), (26/64, 0)):
        assert pointing_game(corner, box_masks([[(start, start, .3, .3)]], (64, 64))).item() == hit


def test_every_box_marks_at_least_one_cell_inside_its_image():
    g = torch.Generator().manual_seed(0)
    xy = torch.rand(200, 2, generator=g)
    boxes = torch.cat([xy, (1 - xy)*torch.rand(200, 2, generator=g)*.1], 1)
    masks = box_masks([b[None] for b in boxes], (7, 5))
    assert masks.shape == (200, 7, 5) and (masks.sum((1, 2)) >= 1).all()
    assert box_masks([[(1., 1., 0., 0.)]], (3, 3))[0, 2, 2]


def test_no_box_at_all():
    assert box_masks([], (2, 3)).shape == (0, 2, 3) and not box_masks([[], []], (2, 3)).any()


@pytest.mark.parametrize('maps, masks, words', [
    (torch.rand(2, 3, 3), torch.ones(2, 3, 3), 'masks are torch.float32: expected bool'),
    (torch.rand(2, 3), torch.ones(2, 3, 3).bool(), r'expected \(n, h, w\) and \(n, H, W\)'),
    (torch.rand(2, 3, 3), torch.ones(1, 3, 3).bool(), r'maps are \(2, 3, 3\), masks \(1, 3, 3\)'),
    (-torch.ones(2, 3, 3), torch.ones(2, 3, 3).bool(), 'negative values or nan'),
    (torch.full((2, 3, 3), torch.nan), torch.ones(2, 3, 3).bool(), 'negative values or nan')])
@pytest.mark.parametrize('measure', [pointing_game, energy_in_box, map_iou])
def test_bad_maps_and_masks(measure, maps, masks, words):
    with pytest.raises(ValueError, match=words): measure(maps, masks)


@pytest.mark.parametrize('low, high', [(-.1, .5), (.2, 1.1), (-1., 2.)])
def test_scores_that_are_no_probabilities(low, high):
    with pytest.raises(ValueError, match='apply a sigmoid first'): evaluate([[low], [high]], [[1], [-1]])


@pytest.mark.parametrize('names', [['a'], ['a', 'a'], ['a', 'b', 'c']])
def test_one_name_per_class(names):
    with pytest.raises(ValueError, match='distinct class names for 2 columns'): evaluate([[.1, .2], [.3, .4]], [[1, -1], [-1, 1]], names)


def test_pseudo_labels_by_hand():
    #                  known | unknown: found right, found wrong, not found | not known to anyone
    labels = torch.tensor([[1, -1, 0, 0, 0, 0, 0, 0]])
    truth = torch.tensor([[1, -1, 1, 1, 1, -1, -1, 0]])
    pseudo = torch.tensor([[1, -1, 1, 1, -1, 1, 0, 1]])
    q = pseudo_quality(pseudo, labels, truth)
    assert q == dict(unknown=5, coverage=4/5, pos_count=3, pos_precision=2/3, pos_recall=2/3, neg_count=1, neg_precision=0., neg_recall=0.)


def test_pseudo_labels_where_there_are_none():
    q = pseudo_quality(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[1, 1]]))
    assert (q['unknown'], q['coverage'], q['pos_count'], q['pos_recall'], q['neg_count']) == (2, 0., 0, 0., 0)
    assert all(np.isnan(q[k]) for k in ('pos_precision', 'neg_precision', 'neg_recall'))
    nothing = pseudo_quality(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2))
    assert nothing['unknown'] == 0 and np.isnan(nothing['coverage'])
