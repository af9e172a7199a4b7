"""Golden numbers of the field's label files and protocols: COCO from SPLC's lists, which are kept here packed; VOC, CUB, NUS-WIDE and VG from
lists under the data root (`trmml.data.download('sarb')` and so on), skipped where they are missing."""
import hashlib
from pathlib import Path

import numpy as np
import pytest

from trmml.data import VOC_CLASSES, Dataset
from trmml.labels import describe, large_loss, partial, single_positive, validation_split
from trmml.data.published import LISTS, list_file, match_rows, published, read_list, read_sarb

HERE = Path(__file__).resolve().parent
SCORES = HERE.parents[1]/'shared'/'data'/'voc2007_test_scores.npz'
RATIOS = [p/10 for p in range(1, 10)]


def short(array): return hashlib.sha256(np.ascontiguousarray(array, '<i4').tobytes()).hexdigest()


def found(name):
    "A list under the data root, or skip and say so."
    try: return list_file(name)
    except FileNotFoundError: pytest.skip(f'{name} is not under the data root: trmml.data.download({name.split("/")[0]!r}) fetches it')


# ---- COCO, from SPLC's lists

@pytest.fixture(scope='module')
def coco():
    "SPLC's lists unfolded: image ids, class lists, which one is published as single."
    z = np.load(HERE/'lists'/'splc-coco2014.npz')
    return z['ids'], np.split(z['classes'], np.cumsum(z['counts'])[:-1]), z['single']


@pytest.fixture(scope='module')
def Y(coco):
    out = np.full((len(coco[0]), 80), -1, np.int8)
    for row, classes in enumerate(coco[1]): out[row, classes] = 1
    return out


def text(coco, single):
    "The file as published: a space after the comma where the first number is shorter than the last."
    lines = []
    for i, c, s in zip(*coco):
        words = [str(c[s])] if single else [str(k) for k in c]
        lines.append(f'COCO_train2014_{i:012}.jpg,' + ' '*(len(words[0]) < len(words[-1])) + ' '.join(words) + '\n')
    return ''.join(lines)


@pytest.mark.parametrize('name, single', [('splc/coco_train_full.txt', False), ('splc/coco_train_singlelabel.txt', True)])
def test_packed_lists_are_the_published_files(coco, name, single):
    assert hashlib.sha256(text(coco, single).encode()).hexdigest() == LISTS[name][1]


PER_CLASS = '''45174 2287 8606 2442 2243 2791 2464 4321 2098 2893 1205 1214 481 3844 2241 2818 3041 2068 1105 1389 1518 668 1324 1798 3924 2749 4861
2667 1631 1511 2209 1170 2986 1625 1804 1884 2511 2343 2368 5968 1771 6518 2537 3097 2493 5028 1618 1171 1645 1216 1340 1186 821 2202 1062 2080
8950 3170 3084 2539 8378 2317 3191 2475 1290 2180 1471 3322 1089 2003 151 3291 1671 3734 3159 2530 673 1510 128 700'''


def test_coco_counts(coco, Y):
    per_image = (Y == 1).sum(1)
    assert len(Y) == len(set(coco[0].tolist())) == 82081 and (Y == 1).sum() == 241035 and per_image.max() == 18 and per_image.min() == 1
    assert np.bincount(per_image)[1:8].tolist() == [16813, 25053, 16837, 9830, 5910, 3364, 1988] and round(per_image.mean(), 3) == 2.937
    assert (Y == 1).sum(0).tolist() == [int(w) for w in PER_CLASS.split()]
    assert coco[0][:6].tolist() == [480023, 50518, 142589, 209263, 15307, 328812]


def test_coco_partial_counts(Y):
    known = [partial(Y, p) for p in RATIOS]
    assert [(k == 1).sum() for k in known] == [24176, 48500, 72193, 96432, 120607, 144742, 169055, 193175, 216873]
    assert [(k == -1).sum() for k in known] == [632491, 1264574, 1897636, 2529236, 3161428, 3795072, 4426937, 5061345, 5693217]
    assert [(k != 1).all(1).sum() for k in known] == [61171, 45436, 33735, 24594, 17603, 12105, 7831, 4521, 1978]
    assert [(k == 0).all(1).sum() for k in known] == [27] + [0]*8


def test_coco_role_draw(coco, Y):
    order = np.argsort(coco[0].astype(str), kind='stable')              # ROLE sorts ids as strings
    assert coco[0][order][:7].tolist() == [100012, 100014, 100020, 100022, 100034, 100037, 10005]
    drawn = single_positive(Y[order], 1200, 'role')
    assert (drawn.sum(1) == 1).all() and drawn.argmax(1)[:10].tolist() == [0, 14, 0, 51, 38, 22, 16, 0, 6, 14]
    assert short(drawn.argmax(1)) == '20dc0c42b93bcc30d712701a8bc835f92e46a1d9b0d2a94da377352742c1e834'


def test_coco_single_positives_are_not_roles(coco, Y):
    chosen = np.array([c[s] for c, s in zip(*coco[1:])])
    assert (Y[np.arange(len(Y)), chosen] == 1).all()
    three = coco[2][np.array([len(c) == 3 for c in coco[1]])]
    assert sorted(np.bincount(three).tolist(), reverse=True) == [5641, 5612, 5584]                 # as a uniform draw has it
    order = np.argsort(coco[0].astype(str), kind='stable')
    role = single_positive(Y[order], 1200, 'role').argmax(1)
    assert abs((role == chosen[order]).mean() - .483) < .0015


def test_coco_large_loss_setup(coco, Y):
    order = np.argsort(coco[0].astype(str), kind='stable')
    observed, train, val = large_loss(Y[order])
    assert (len(train), len(val)) == (65665, 16416) and (observed[val] == Y[order][val]).all()
    assert (observed[train].sum(1) == 1).all() and (observed[train] >= 0).all()


@pytest.fixture(scope='module')
def splc_root(coco, tmp_path_factory):
    "The published files, unfolded under a data root, and a data set of the same photos in another order."
    root = tmp_path_factory.mktemp('root')
    (root/'labels'/'splc').mkdir(parents=True)
    for name, single in (('full', False), ('singlelabel', True)): (root/'labels'/'splc'/f'coco_train_{name}.txt').write_text(text(coco, single))
    return root


def test_published_labels_find_their_rows(coco, Y, splc_root):
    order = np.random.RandomState(0).permutation(len(Y))
    names = [str(k) for k in range(80)]
    ds = Dataset('coco2014', 'train', names, names, [f'/x/train2014/COCO_train2014_{i:012}.jpg' for i in coco[0][order]], Y[order])
    one, everything = published(ds, splc_root), published(ds, splc_root, 'all')
    assert (one.sum(1) == 1).all() and ((everything == 1) == (ds.labels == 1)).all() and (ds.labels[one == 1] == 1).all()
    assert one.argmax(1).tolist() == [int(coco[1][r][coco[2][r]]) for r in order]


def test_a_file_of_the_same_name_and_size_is_refused(coco, splc_root, tmp_path):
    (tmp_path/'labels'/'splc').mkdir(parents=True)
    (tmp_path/'labels'/'splc'/'coco_train_full.txt').write_text(text(coco, False).replace(', 0 52\n', ', 1 52\n', 1))
    with pytest.raises(ValueError, match='another order of classes'): list_file('splc/coco_train_full.txt', tmp_path)


# ---- splits of ROLE and Large Loss

@pytest.mark.parametrize('n, first, digest, sizes', [
    (82081, [3, 4, 34, 37, 48, 64, 69, 76], '4b447e058ddeeb92', (65665, 16416)), (5717, [5, 6, 11, 15, 22, 23, 29, 34], '26b049111d974343', (4574, 1143)),
    (5994, [5, 6, 11, 15, 22, 23, 29, 34], 'afa0ea04ac8fcc98', (4795, 1199)), (150000, [2, 4, 5, 7, 9, 11, 12, 19], 'e12458d44dbd6d2c', (120000, 30000))])
def test_validation_split(n, first, digest, sizes):
    train, val = validation_split(n)
    assert (len(train), len(val)) == sizes and val[:8].tolist() == first and short(val)[:16] == digest
    assert (np.sort(np.concatenate([train, val])) == np.arange(n)).all()


# ---- VOC 2007, from SARB's files

def test_voc2007_labels():
    train, test = (read_sarb(found(f'sarb/original-labels/{s}.txt')) for s in ('train', 'val'))
    assert train.shape == (5011, 20) and test.shape == (4952, 20) and (train != 0).all()
    assert np.bincount((train == 1).sum(1)).tolist() == [0, 3103, 1568, 301, 33, 4, 2] and (train == 1).sum() == 7306
    assert np.bincount((test == 1).sum(1)).tolist() == [0, 3192, 1497, 227, 34, 2] and (test == 1).sum() == 7013
    assert (train == 1).sum(0).tolist() == [238, 243, 330, 181, 244, 186, 713, 337, 445, 141, 200, 421, 287, 245, 2008, 245, 96, 229, 261, 256]
    assert (test == 1).sum(0).tolist() == [204, 239, 282, 172, 212, 174, 721, 322, 417, 127, 190, 418, 274, 222, 2007, 224, 97, 223, 259, 229]


@pytest.mark.skipif(not SCORES.is_file(), reason='shared/data/voc2007_test_scores.npz is not beside the repository')
def test_voc2007_test_positives_from_published_scores():
    targets = np.load(SCORES)['targets']
    assert targets.shape == (4952, len(VOC_CLASSES)) and (targets == 1).sum() == 7013 and (targets == 0).any()      # difficult ones are apart
    assert (targets == 1).sum(0).tolist() == [204, 239, 282, 172, 212, 174, 721, 322, 417, 127, 190, 418, 274, 222, 2007, 224, 97, 223, 259, 229]


def test_voc2007_partial_counts():
    Y = read_sarb(found('sarb/original-labels/train.txt'))
    known = [partial(Y, p) for p in RATIOS]
    assert [(k == 1).sum() for k in known] == [740, 1461, 2187, 2923, 3674, 4429, 5158, 5871, 6558]
    assert [(k == -1).sum() for k in known] == [9368, 18739, 27976, 37144, 46489, 55855, 64970, 74261, 83616]
    facts = [describe(k) for k in known]
    assert [f['images without positives'] for f in facts] == [4297, 3662, 3074, 2504, 1971, 1475, 1052, 667, 329]
    assert [f['images without labels'] for f in facts] == [533, 49, 3, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize('p', RATIOS)
def test_voc2007_masks_equal_the_released_files_bit_for_bit(p):
    Y, released = (read_sarb(found(f'sarb/{n}.txt')) for n in ('original-labels/train', f'partial-labels/train_proportion_{p}'))
    assert (partial(Y, p) == released).all()


# ---- the other lists

def test_other_splc_lists():
    _, full = read_list(found('splc/coco_train_full.txt'), 80)
    n = full.sum(1)
    for name, total, rule in (('0.75left', 181422, n//2 + 1), ('0.4left', 96251, n//5 + 1)):
        _, some = read_list(found(f'splc/coco_train_{name}.txt'), 80)
        assert some.sum() == total and (some <= full).all() and (some.sum(1) == rule).all()


def test_nus_val_list():
    names, positive = read_list(found('splc/nus_val.txt'), 81)
    per_class = dict(zip(range(81), positive.sum(0)))
    from trmml.data.nuswide import CONCEPTS
    count = lambda c: per_class[CONCEPTS.index(c)]
    assert len(names) == 50720 and positive.sum() == 123567 and positive.sum(1).max() == 13 and positive.sum(1).min() == 1
    assert [count(c) for c in ('sky', 'clouds', 'person', 'map', 'earthquake')] == [18403, 13499, 11698, 16, 22] and positive.any(0).all()
    rows = [int(n.split('_')[0]) for n in names]
    assert (min(rows), max(rows)) == (5, 269647)


def test_scpnet_voc_lists():
    train, one = read_list(found('scpnet/voc_train.txt'), 20)
    val, positive = read_list(found('scpnet/voc_val.txt'), 20)
    assert (len(train), len(val)) == (5717, 5823) and not set(train) & set(val) and (one.sum(1) == 1).all()
    assert positive.sum() == 8856 and positive.sum(1).max() == 6
    assert positive.sum(0).tolist() == [348, 290, 374, 252, 369, 211, 608, 544, 642, 154, 323, 661, 245, 262, 2232, 279, 155, 336, 275, 296]


def test_scpnet_cub_lists():
    train, one = read_list(found('scpnet/cub_train.txt'), 312)
    test, positive = read_list(found('scpnet/cub_val.txt'), 312)
    assert (len(train), len(test)) == (5994, 5794) and not set(train) & set(test) and len({n.split('/')[0] for n in train + test}) == 200
    assert positive.sum() == 182704 and (positive.sum(1).min(), positive.sum(1).max()) == (3, 72) and positive.sum(0).min() >= 3
    assert positive.sum(0).argmin() == 142 and positive.sum(0).argmax() == 145 and positive.sum(0).max() == 4877
    never = np.flatnonzero(~one.any(0)).tolist()
    assert never == [18, 33, 61, 82, 114, 123, 128, 137, 141, 160, 170, 176, 185, 191, 205, 206, 252, 257, 265, 281, 285, 286]


def test_vg_lists():
    from trmml.data.vg200 import read_photos
    train, test = (read_photos(found(f'ssgrl/{s}_list_500.txt')) for s in ('train', 'test'))
    assert (len(train), len(test)) == (82904, 10000) and not set(train) & set(test)


@pytest.mark.parametrize('name', LISTS)
def test_rows_of_every_list(name):
    lines = [line for line in found(name).read_text().splitlines() if line.strip()]
    assert len(lines) == LISTS[name][0]


def test_rows_are_matched_by_the_end_of_the_path():
    assert match_rows(['a/x.jpg', 'b/x.jpg'], ['/r/b/x.jpg', '/r/a/x.jpg'], 'list').tolist() == [1, 0]
