"""Answers into the table: any separator, yes and no, what is wrong is named, nothing is written over unasked; ask, answer, fit on the console."""
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import trmml.data
from trmml import cli
from trmml.data.table import write_csv
from trmml.labels import partial
from trmml.photos import answered, with_answers

LABELS = 'image,dog,cat,note\na.png,1,,"x, y"\nb.png,,0,\nc.png,0,1,z\n'


@pytest.fixture
def labels(tmp_path):
    (tmp_path/'labels.csv').write_text(LABELS)
    return tmp_path/'labels.csv'


def answers(path, *rows, sep=',', header=('image', 'class', 'probability', 'label'), encoding='utf-8'):
    text = '\n'.join(sep.join(map(str, r)) for r in [header, *rows]) + '\n'
    path.write_bytes(text.encode(encoding))
    return path


def say(capsys, *args):
    with pytest.raises(SystemExit) as stop: cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


@pytest.mark.parametrize('sep,encoding', [(',', 'utf-8'), (';', 'utf-8-sig'), ('\t', 'utf-16')])
def test_answers_as_spreadsheets_save_them(labels, capsys, sep, encoding):
    file = answers(labels.with_name('next.csv'), ('a.png', 'cat', .5, 'yes'), ('b.png', 'dog', .4, '0'), ('c.png', 'dog', .3, 'skip'), sep=sep, encoding=encoding)
    code, out, err = say(capsys, 'answer', file, labels, '--out', labels.with_name('new.csv'))
    assert (code, out.strip()) == (0, str(labels.with_name('new.csv'))) and '2 answers: 1 x 1, 1 x 0; 1 skipped' in err
    assert labels.with_name('new.csv').read_text() == 'image,dog,cat,note\na.png,1,1,"x, y"\nb.png,0,0,\nc.png,0,1,z\n'
    assert labels.read_text() == LABELS


@pytest.mark.parametrize('said,want', [('1', '1'), ('1.0', '1'), ('Yes', '1'), ('y', '1'), ('TRUE', '1'), ('0', '0'), ('no', '0'), ('False', '0'),
                                       ('', None), ('skip', None), ('?', None)])
def test_words(labels, said, want):
    t = answered(labels, answers(labels.with_name('n.csv'), ('a.png', 'cat', .5, said)))
    assert t.cat['a.png'] == want if want else pd.isna(t.cat['a.png'])


@pytest.mark.parametrize('row,words', [
    (('a.png', 'cat', .5, 'maybe'), ("row 3 (a.png, cat): 'maybe' is no answer", 'skip')), (('a.png', 'cat', .5, '2'), ('row 3', "'2'")),
    (('z.png', 'cat', .5, '1'), ('row 3 (z.png, cat)', 'no such cell')), (('a.png', 'cow', .5, '1'), ('row 3 (a.png, cow)', 'no such cell')),
    (('b.png', 'dog', .5, '0'), ('row 3 (b.png, dog)', 'answered twice'))])
def test_what_is_none_is_named(labels, capsys, row, words):
    file = answers(labels.with_name('next.csv'), ('b.png', 'dog', .4, 'yes'), row)
    code, out, err = say(capsys, 'answer', file, labels, '--out', labels.with_name('new.csv'))
    assert code == 2 and out == '' and all(w in err for w in ('next.csv', *words)) and not labels.with_name('new.csv').exists() and labels.read_text() == LABELS


def test_a_missing_column(labels, capsys):
    code, _, err = say(capsys, 'answer', labels, labels)
    assert code == 2 and "no column 'class'" in err and 'label filled in' in err


def test_in_place_only_when_asked(labels, capsys):
    file = answers(labels.with_name('next.csv'), ('a.png', 'cat', .5, 1))
    code, out, err = say(capsys, 'answer', file, labels)
    assert code == 0 and out.startswith('image,dog,cat,note\na.png,1,1,') and labels.read_text() == LABELS      # standard output
    assert say(capsys, 'answer', file, labels, '--out', labels)[0] == 2 and labels.read_text() == LABELS
    assert say(capsys, 'answer', file, labels, '--in-place', '--out', labels.with_name('x.csv'))[0] == 2
    code, out, err = say(capsys, 'answer', file, labels, '--in-place')
    assert code == 0 and 'a.png,1,1,' in labels.read_text() and labels.with_name('labels.csv.bak').read_text() == LABELS
    code, out, err = say(capsys, 'answer', file, labels.with_suffix('.json'), '--in-place')
    assert code == 2 and 'use --out' in err


def test_a_semicolon_table_stays_one(tmp_path, capsys):
    (tmp_path/'l.csv').write_text('image;dog;cat\na.png;;ja\n'.replace('ja', '1'))
    say(capsys, 'answer', answers(tmp_path/'n.csv', ('a.png', 'dog', .5, 'no'), sep=';'), tmp_path/'l.csv', '--out', tmp_path/'m.csv')
    assert (tmp_path/'m.csv').read_text() == 'image;dog;cat\na.png;0;1\n'


def test_an_answer_over_a_label_is_counted(labels):
    t = with_answers(labels, pd.DataFrame(dict(photo=['a.png', 'c.png'], label=['no', 'yes'], **{'class': ['dog', 'cat']})))
    assert (t.ones, t.zeros, t.changed) == (1, 1, 1) and t.labels.dog['a.png'] == '0' and '1 replaced another label' in str(t)


def test_a_list_of_tags_becomes_a_wide_table(tmp_path):
    (tmp_path/'tags.csv').write_text('image,tags\na.png,dog|cat\nb.png,cat\n')
    t = answered(tmp_path/'tags.csv', pd.DataFrame(dict(image=['b.png'], label=['no'], **{'class': ['dog']})))
    assert t.loc['b.png', 'dog'] == '0' and t.loc['a.png', 'dog'] == '1' and t.loc['b.png', 'cat'] == '1'


def test_a_frame_keeps_its_values():
    t = pd.DataFrame(dict(dog=[1., np.nan]), ['a', 'b'])
    out = answered(t, pd.DataFrame({'image': ['b'], 'class': ['dog'], 'label': [True]}))
    assert out.dog.tolist() == [1., '1'] and t.dog.isna().tolist() == [False, True]


def test_the_loop_on_the_console(tmp_path, capsys, monkeypatch):
    "ask, answer in a spreadsheet's way, fit again: labels are more, and the new model is there."
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'features'))
    ds = trmml.data.load('doodles', 'train', root=tmp_path, train=24, test=4, progress=False, n_jobs=1)
    photos, names = Path(ds.paths[0]).parent, [Path(p).name for p in ds.paths]
    write_csv(tmp_path/'labels.csv', names, ds.classes, partial(ds.labels, .5))
    truth = pd.DataFrame(ds.labels, names, ds.classes)
    how = '--backbone', 'doodle-clip', '--epochs', '1', '--workers', '0', '--quiet'
    for k in range(2):
        before, model = tmp_path/('labels.csv' if k == 0 else 'labels-1.csv'), tmp_path/f'model{k}'
        assert say(capsys, 'fit', photos, before, '--out', model, *how)[0] == 0
        code, _, err = say(capsys, 'ask', model, before, '--photos', photos, '-n', 10, '--out', tmp_path/f'next{k}.csv')
        assert code == 0 and f'trmml answer {tmp_path}/next{k}.csv {before}' in err
        a = pd.read_csv(tmp_path/f'next{k}.csv', dtype=object)
        a['label'] = ['yes' if truth.loc[i, c] == 1 else 'no' for i, c in zip(a['image'], a['class'])]
        a.to_csv(tmp_path/f'next{k}.csv', index=False, sep=';')
        code, _, err = say(capsys, 'answer', tmp_path/f'next{k}.csv', before, '--out', tmp_path/f'labels-{k + 1}.csv')
        assert code == 0 and '10 answers' in err
    known = [int(pd.read_csv(tmp_path/n, index_col=0).notna().sum().sum()) for n in ('labels.csv', 'labels-1.csv', 'labels-2.csv')]
    assert known[1] - known[0] == known[2] - known[1] == 10 and (tmp_path/'model1'/'model.json').exists()
