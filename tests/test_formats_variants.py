"""Variants of label files that tools write: right labels, or one sentence that says what to do; never a wrong label without a word."""
import json
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from trmml.photos import read_given
from trmml.photos.given import read_to_fit

N = [f'IMG_{k:04d}.jpg' for k in range(1, 13)]
C = ['person', 'car', 'dining table', 'tv']
T = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0],
              [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0]])
FULL, TAGS = np.where(T == 1, 1, -1), [[c for c, v in zip(C, r) if v] for r in T]
HALF = np.where(np.random.RandomState(3).rand(*T.shape) < .6, FULL, 0)
WIDE = pd.DataFrame(HALF, columns=C).replace({0: '', -1: 0}).astype(str)
WIDE.insert(0, 'image', N)
LONG = pd.DataFrame([(n, c, v) for n, r in zip(N, HALF) for c, v in zip(C, r) if v], columns=['image', 'class', 'label'])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path/'photos'
    folder.mkdir()
    for n in N: Image.new('RGB', (8, 8)).save(folder/n)
    return folder


def tags(f, name='tags'): return pd.DataFrame({'image': N, name: [f(t) for t in TAGS]})


def same(g, want, classes=C):
    Y = pd.DataFrame(g.labels, [os.path.basename(p) for p in g.paths], g.classes)
    assert sorted(Y) == sorted(classes) and sorted(Y.index) == N
    assert (Y.loc[N, classes].to_numpy() == want).all()


def refused(photos, labels, words, **how):
    with pytest.raises(ValueError) as error: read_given(photos, labels, **how)
    assert words in str(error.value) and '\n' not in str(error.value)


RIGHT = {   # name: (frame, labels)
    'two row numbers': (WIDE.assign(**{'Unnamed: 0': range(12), 'Unnamed: 0.1': range(12)}), HALF),
    'an id that counts': (WIDE.assign(id=range(12)), HALF), 'folds': (WIDE.assign(fold=[k % 5 for k in range(12)]), HALF),
    'two folds': (WIDE.assign(fold=[k % 2 for k in range(12)]), HALF), 'none': (WIDE.assign(none=(T.sum(1) == 0).astype(int)), HALF),
    'votes of 0 and 1': (LONG.assign(label=[max(v, 0) for v in LONG.label]).rename(columns=dict(label='votes_yes')), HALF),
    'hash tags': (tags(lambda t: ' '.join('#' + c.replace(' ', '_') for c in t)), T), 'glued': (tags(lambda t: ''.join('#' + c for c in t)), T),
    'hash and comma': (tags(lambda t: ', '.join('#' + c for c in t)), T), 'sets': (tags(lambda t: str(set(t))), T),
    'dash': (tags(lambda t: ', '.join(t) or '-'), T), 'unsure': (tags(lambda t: ', '.join(t) or '?'), T)}


@pytest.mark.parametrize('name', RIGHT)
def test_read_right(photos, tmp_path, name):
    df, want = RIGHT[name]
    df.to_csv(tmp_path/'x.csv', index=False)
    same(read_given(photos, tmp_path/'x.csv'), want)


REFUSED = {   # a row per tag, or a list, that says more than what is there
    'long with -1': (LONG, "'-1' is no label"),
    'votes beside': (LONG.assign(votes_yes=3, votes_no=0).drop(columns='label'), 'may say that a class is not there'),
    'counts': (tags(lambda t: ', '.join(f'{c}:{1 + k}' for k, c in enumerate(t))), 'numbers behind'),
    'scores': (tags(lambda t: '; '.join(f'{c} (0.9{k})' for k, c in enumerate(t))), 'numbers behind'),
    'not': (tags(lambda t: ', '.join([*t, *('not ' + c for c in C if c not in t)])), "lists both 'car' and 'not car'"),
    'minus': (tags(lambda t: ', '.join([*t, *('-' + c for c in C if c not in t)])), "lists both 'car' and '-car'"),
    'doubt': (tags(lambda t: ', '.join([*t[:1], *(c + '?' for c in t[1:])])), "'car?'"),
    'yes and no': (tags(lambda t: 'yes' if 'tv' in t else 'no', 'label'), "which is one class; say classes=['label']")}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_no_list_of_what_is_there(photos, tmp_path, name):
    df, words = REFUSED[name]
    df.to_csv(tmp_path/'x.csv', index=False)
    refused(photos, tmp_path/'x.csv', words)
    from trmml.cli import app
    for how in ((), ('--unlisted', 'negative')) if name in ('long with -1', 'not') else ():   # and from the console
        out = CliRunner().invoke(app, ['fit', str(photos), str(tmp_path/'x.csv'), '--backbone', 'doodle-clip', '--out', str(tmp_path/'m'), *how])
        assert out.exit_code and not (tmp_path/'m').exists()


@pytest.mark.parametrize('how', ['text', 'numpy', 'spaces', 'parquet', 'jsonl'])
def test_a_place_per_class(photos, tmp_path, how):
    write = dict(text=lambda r: str(r.tolist()), numpy=lambda r: str(r.astype(float)), spaces=lambda r: ' '.join(map(str, r))).get(how, lambda r: r.tolist())
    df = pd.DataFrame(dict(image=N, labels=[write(r) for r in T]))
    path = tmp_path/('x.csv' if how in ('text', 'numpy', 'spaces') else f'x.{how}')
    if how == 'parquet': df.to_parquet(path)
    elif how == 'jsonl': df.to_json(path, orient='records', lines=True)
    else: df.to_csv(path, index=False)
    refused(photos, path, 'each cell has 4 places')
    same(read_given(photos, path, names=C), FULL)
    (tmp_path/'classes.txt').write_text('\n'.join(C))   # once read as lists of the numbers 0 and 1
    same(read_given(photos, path), FULL)
    assert (read_given(photos, path, ['tv']).labels[:, 0] == FULL[:, 3]).all()


def test_numbers_from_one_and_columns_without_names(photos, tmp_path):
    tags(lambda t: ' '.join(str(C.index(c) + 1) for c in t)).to_csv(tmp_path/'x.csv', index=False)
    (tmp_path/'classes.txt').write_text('\n'.join([*C, 'cup']))
    refused(photos, tmp_path/'x.csv', 'are no names of classes')
    refused(photos, tmp_path/'x.csv', 'count from 0', names=str(tmp_path/'classes.txt'))
    same(read_given(photos, tmp_path/'x.csv', names={k + 1: c for k, c in enumerate(C)}), T)
    WIDE.set_axis(['image', 0, 1, 2, 3], axis=1).to_csv(tmp_path/'y.csv', index=False)
    (tmp_path/'classes.txt').unlink()
    refused(photos, tmp_path/'y.csv', '--names FILE')
    same(read_given(photos, tmp_path/'y.csv', names=C), HALF)
    (tmp_path/'label_names.csv').write_text('label,name,count\n' + '\n'.join(f'{k},{c},{7*k + 3}' for k, c in enumerate(C)))
    tags(lambda t: ' '.join(str(C.index(c)) for c in t)).to_csv(tmp_path/'x.csv', index=False)
    same(read_given(photos, tmp_path/'x.csv'), T)


@pytest.mark.parametrize('columns', [dict(is_train=[1]*8 + [0]*4), dict(dataset_split=['train']*8 + ['test']*4),
                                     dict(train=[1]*8 + [0]*4, test=[0]*8 + [1]*4)])
@pytest.mark.parametrize('table', [WIDE, tags('|'.join)], ids=['wide', 'tags'])
def test_splits_are_no_classes(photos, tmp_path, columns, table):
    table.assign(**columns).to_csv(tmp_path/'x.csv', index=False)
    train, val = read_to_fit(photos, tmp_path/'x.csv')
    assert train.names == N[:8] and val is None and sorted(train.classes) == sorted(C)
    assert read_given(photos, tmp_path/'x.csv', use='evaluate').names == N[8:]


def answers(found, control='choice'): return [dict(type='choices', from_name=control, value=dict(choices=x)) for x in [found] if x]


def test_label_studio_questions_and_annotators(photos, tmp_path):
    tasks = [dict(id=k, data=dict(image=n), annotations=[dict(result=[a for c, v in zip(C, r) for a in answers(['Yes' if v else 'No'], c)])])
             for k, (n, r) in enumerate(zip(N, T))]
    (tmp_path/'x.json').write_text(json.dumps(tasks))
    same(read_given(photos, tmp_path/'x.json'), FULL)
    rows = [dict(annotation_id=9*k + a, annotator=a, choice=json.dumps(dict(choices=t if a else t[:1])), id=k, image=n, lead_time=1.)
            for k, (n, t) in enumerate(zip(N, TAGS)) for a in (0, 1)]
    pd.DataFrame(rows).to_csv(tmp_path/'x.csv', index=False)
    refused(photos, tmp_path/'x.csv', 'has another answer in row')


def test_images_of_two_tasks_are_not_merged(photos, tmp_path):
    def image(n, t, subset='', tick=''): return f'<image name="{n}" subset="{subset}">' + ''.join(f'<tag label="{c}">{tick}</tag>' for c in t) + '</image>'
    (tmp_path/'x.xml').write_text('<annotations>' + image(N[0], ['car']) + image(N[0], ['tv']) + '</annotations>')
    refused(photos, tmp_path/'x.xml', "two images are called 'IMG_0001.jpg'")
    tick = '<attribute name="wet">true</attribute>'
    (tmp_path/'x.xml').write_text('<annotations>' + ''.join(image(n, t, 'Train' if n < N[8] else 'Test', tick) for n, t in zip(N, TAGS)) + '</annotations>')
    g = read_given(photos, tmp_path/'x.xml')
    same(g, T)
    assert 'not read: wet' in g.said and g.split == ['train']*8 + ['test']*4
    doc = dict(images=[dict(id=k, file_name=n, neg_category_ids=[c for c in range(4) if FULL[k, c] < 0]) for k, n in enumerate(N)],
               categories=[dict(id=k, name=c) for k, c in enumerate(C)], annotations=[dict(image_id=k, category_id=c) for k, c in np.argwhere(T).tolist()])
    (tmp_path/'x.json').write_text(json.dumps(doc))
    same(read_given(photos, tmp_path/'x.json'), FULL)   # LVIS
    doc['images'][1]['file_name'] = N[0]
    (tmp_path/'x.json').write_text(json.dumps(doc))
    refused(photos, tmp_path/'x.json', 'two images are called')


def test_image_sets_of_voc(photos, tmp_path):
    folder = tmp_path/'Main'
    folder.mkdir()
    for j, c in enumerate(C):
        for s, part in (('train', range(8)), ('val', range(8, 12)), ('trainval', range(12))):
            (folder/f'{c}_{s}.txt').write_text(''.join(f'{N[k][:-4]} {HALF[k, j]:2d}\n' for k in part))
    (folder/'train.txt').write_text('\n'.join(n[:-4] for n in N[:8]))
    g = read_given(photos, folder)
    same(g, HALF)
    assert g.split == ['train']*8 + ['val']*4


def test_a_base_name_of_many_folders_is_no_match(tmp_path):
    for n in ('p0', 'p2'): (tmp_path/'q'/n).mkdir(parents=True); Image.new('RGB', (8, 8)).save(tmp_path/'q'/n/'view1.jpg')
    df = pd.DataFrame(dict(image=['x/p0/view1.jpg', 'x/p7/view1.jpg'], cat=[1, 0]))
    (tmp_path/'q'/'p2'/'view1.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='of which 1 are not'): read_given(tmp_path/'q', df)


@pytest.mark.parametrize('words', [('WAHR', 'FALSCH'), ('✓', '✗'), ('pos', 'neg'), ('+', '-')])
def test_hints_say_what_words_mean(photos, words):
    df = WIDE.replace({'1': words[0], '0': words[1]})
    refused(photos, df, f"--code '{words[0]}=1'")
    refused(photos, df, f"--code '{words[1]}=0'")
    same(read_given(photos, df, code={words[0]: 1, words[1]: 0}), HALF)


def test_minus_one_is_asked_for(photos):
    df = WIDE.replace({'': '0', '0': '-1'})
    refused(photos, df, "(--code '-1='; --code '-1=0' if it means absent)")
    refused(photos, WIDE.replace({'': '9'}), "--code '9='")
