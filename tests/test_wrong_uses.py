"""Wrong uses of the estimator and of the console: one clear message, an exit code, nothing lost; Ctrl-C can be gone on from."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import trmml.data
from trmml import TRMML, cli
from trmml.photos import ModelError, browse, filling, fitting, saving
from trmml.photos.model_file import checksum
from trmml.labels import partial
from trmml.data.table import write_csv

BACKBONE = ['--backbone', 'doodle-clip', '--workers', '0', '--quiet']
QUICK = dict(backbone='doodle-clip', epochs=2, workers=0, progress=False)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Two dozen photos, a table with blanks, a saved model."
    root = tmp_path_factory.mktemp('photos'); os.environ['TRMML_FEATURES'] = str(root/'features')
    ds = trmml.data.load('doodles', 'train', root=root, train=24, test=4, progress=False, n_jobs=1)
    shutil.copytree(Path(ds.paths[0]).parent, root/'photos'); shutil.rmtree(Path(ds.paths[0]).parents[1])
    names = [Path(p).name for p in ds.paths]
    write_csv(root/'labels.csv', names, ds.classes, partial(ds.labels, .5))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        TRMML(**QUICK).fit(root/'photos', root/'labels.csv').save(root/'model')
    yield root
    del os.environ['TRMML_FEATURES']


@pytest.fixture
def own(place, tmp_path):
    "A model folder that may be spoiled."
    return Path(shutil.copytree(place/'model', tmp_path/'model'))


def trmml_says(capsys, *args):
    "Exit code, standard output and standard error of a command."
    with pytest.raises(SystemExit) as stop: cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def spoil(place, how):
    "A table with one thing wrong."
    t = pd.read_csv(place/'labels.csv', dtype=object)
    how(t).to_csv(place/'spoilt.csv', index=False)
    return place/'spoilt.csv'


def lone(place):
    "The table in a folder without photos."
    (place/'far').mkdir(exist_ok=True)
    return Path(shutil.copy(place/'labels.csv', place/'far'/'labels.csv'))


def with_two(t): t.iloc[3, 2] = '2'; return t
def no_negatives(t): return t.replace('0', '')
def no_positives(t): return t.replace('1', '')
def missing_photo(t): t.loc[5, 'image'] = 'gone.png'; return t
def twice(t): t.loc[5, 'image'] = t.loc[4, 'image']; return t


FIT = [   # name, arguments after `fit`, words of the message
    ('arguments swapped', lambda r: (r/'labels.csv', r/'photos'), 'swapped'),
    ('a label is 2', lambda r: (r/'photos', spoil(r, with_two)), "row 5, column"),
    ('unknown column', lambda r: (r/'photos', r/'labels.csv', '--class', 'no such thing', '--class', 'neither'), "has no column 'no such thing'"),
    ('one photo', lambda r: (r/'photos', spoil(r, lambda t: t.iloc[:1])), 'at least 10 are needed'),
    ('no positives', lambda r: (r/'photos', spoil(r, no_positives)), 'no cell says 1'),
    ('a photo is missing', lambda r: (r/'photos', spoil(r, missing_photo)), 'gone.png'),
    ('a photo stands there twice', lambda r: (r/'photos', spoil(r, twice)), 'stands in row'),
    ('no such table', lambda r: (r/'photos', r/'none.csv'), 'no such table'),
    ('no such folder', lambda r: (r/'none', r/'labels.csv'), 'no such folder'),
    ('unknown backbone', lambda r: (r/'photos', r/'labels.csv', '--backbone', 'RN5O'), 'unknown backbone'),
    ('backbone that cannot be used', lambda r: (r/'photos', r/'labels.csv', '--backbone', 'coca_ViT-B-32'), 'CoCa'),
    ('a share as a percentage', lambda r: (r/'photos', r/'labels.csv', '--held-out', '20'), 'a share in'),
    ('folder for the model is not there', lambda r: (r/'photos', r/'labels.csv', '--out', r/'no'/'model'), 'make it first'),
    ('model into the folder of photos', lambda r: (r/'photos', r/'labels.csv', '--out', r/'photos'), 'is no model of trmml'),
    ('no epochs', lambda r: (r/'photos', r/'labels.csv', '--epochs', '0'), 'epochs=0'),
    ('a negative batch', lambda r: (r/'photos', r/'labels.csv', '--batch', '-1'), 'batch=-1'),
    ('a negative seed', lambda r: (r/'photos', r/'labels.csv', '--seed', '-1'), 'seed=-1'),
    ('no such device', lambda r: (r/'photos', r/'labels.csv', '--device', 'gpu'), "device='gpu'"),
    ('a GPU that is not there', lambda r: (r/'photos', r/'labels.csv', '--device', 'cuda:99'), 'GPUs here'),
    ('a photo for the folder', lambda r: (next((r/'photos').iterdir()), r/'labels.csv'), 'is a file, no folder'),
    ('a variable that is not set', lambda r: ('', r/'labels.csv'), 'no such folder'),
]


@pytest.mark.parametrize('name,args,words', FIT, ids=[f[0] for f in FIT])
def test_fit(place, capsys, name, args, words):
    given = [*args(place)]; backbone = [] if '--backbone' in given else BACKBONE[:2]
    out, before = [] if '--out' in given else ['--out', place/'new'], sorted((place/'photos').iterdir())
    code, said, err = trmml_says(capsys, 'fit', *given, *backbone, *BACKBONE[2:], *out)
    assert code == 2 and words in err and said == '' and not (place/'new').exists() and sorted((place/'photos').iterdir()) == before
    assert len(err.strip().splitlines()) == 1 and 'Traceback' not in err


def drop_tensors(m): next(m.glob('weights-*')).unlink()
def drop_json(m): (m/'model.json').unlink()
def cut_json(m): (m/'model.json').write_text((m/'model.json').read_text()[:300])
def tamper(m): f = next(m.glob('weights-*')); b = bytearray(f.read_bytes()); b[-5] ^= 1; f.write_bytes(b)
def edit(m, **what):
    "As a forger would: the checksum is that of the changed file."
    s = json.loads((m/'model.json').read_text()) | what
    (m/'model.json').write_text(json.dumps(s | dict(checksum=checksum(s))))
def few_thresholds(m): edit(m, thresholds=[.5])
def few_classes(m): s = json.loads((m/'model.json').read_text()); edit(m, classes=['a'], prompts=['a'], thresholds=[.5], calibration=dict(s['calibration'], a=[1.], b=[0.]))
def no_backbone(m): edit(m, backbone={})
def odd_setting(m): edit(m, settings=dict(foo=1))
def unknown_backbone(m): s = json.loads((m/'model.json').read_text()); edit(m, backbone=dict(s['backbone'], name='RN5O'))
def a_list(m): (m/'model.json').write_text('[1, 2]')
def newer(m): s = json.loads((m/'model.json').read_text()); s['format'] = 99; (m/'model.json').write_text(json.dumps(s))
def other_backbone(m): backbone(m, sha256='0'*64)


SPOILT = [('half copied: no tensors', drop_tensors, 'copied by half'), ('half copied: no json', drop_json, 'copied by half'), ('json cut off', cut_json, 'cannot be read'),
          ('tampered weights', tamper, 'sha256 differs'), ('of a newer format', newer, 'format 99'), ('wrong backbone', other_backbone, 'other weights'),
          ('too few thresholds', few_thresholds, 'for each of its classes'), ('other classes than tensors', few_classes, 'names 1 classes'), ('no backbone', no_backbone, 'what a model needs'),
          ('a setting that there is not', odd_setting, 'what a model needs'), ('unknown backbone', unknown_backbone, 'unknown backbone'), ('json is a list', a_list, 'cannot be read')]


@pytest.mark.parametrize('name,how,words', SPOILT, ids=[s[0] for s in SPOILT])
def test_model_folder(place, own, capsys, name, how, words):
    how(own)
    code, out, err = trmml_says(capsys, 'predict', own, place/'photos', '--quiet')
    assert code == 3 and words in err and out == '' and len(err.strip().splitlines()) == 1


def backbone(m, **what):
    said = json.loads((m/'model.json').read_text()); edit(m, backbone=said['backbone'] | what)


ELSEWHERE = [   # what model.json says of the backbone; words of the message
    ('a hub', dict(name='hf-hub:a/b'), 'backbone.name'),
    ('a folder', dict(name='local-dir:a'), 'backbone.name'),
    ('a name in a list', dict(name=['RN50']), 'backbone.name'),
    ('a path', dict(name='RN50', weights='/x/RN50.pt'), 'backbone.weights'),
    ('a path beside it', dict(weights='doodle.safetensors'), 'backbone.weights'),
    ('another tag', dict(weights='laion2b'), 'backbone.weights'),
    ('a number', dict(weights=5), 'backbone.weights'),
    ('a huge picture', dict(image_size=32000), 'backbone.image_size'),
    ('no picture', dict(image_size=0), 'backbone.image_size'),
    ('less than that', dict(image_size=-64), 'backbone.image_size'),
    ('half a pixel', dict(image_size=64.5), 'backbone.image_size'),
    ('a size in words', dict(image_size='64'), 'backbone.image_size'),
    ('a truth', dict(image_size=True), 'backbone.image_size')]


@pytest.mark.parametrize('name,what,words', ELSEWHERE, ids=[e[0] for e in ELSEWHERE])
def test_a_model_leads_nowhere_else(place, own, capsys, monkeypatch, name, what, words):
    "Neither a file, a network nor much memory is touched because a model.json says so."
    import open_clip
    def never(*_, **__): raise AssertionError('the backbone was looked for')
    monkeypatch.setattr(saving.backbones, 'load', never)
    monkeypatch.setattr(open_clip.factory, '_get_hf_config', never)
    backbone(own, **what)
    code, out, err = trmml_says(capsys, 'predict', own, place/'photos', '--quiet')
    assert code == 3 and f'model.json: {words}' in err and out == ''
    assert len(err.strip().splitlines()) == 1
    assert 'pass weights=' in err or words == 'backbone.image_size'


@pytest.mark.parametrize('given', [False, True], ids=['named by the model', 'given by the user'])
def test_code_of_weights_is_not_run(place, own, capsys, writes_a_file, given):
    "An archive that would write a file when torch loads it."
    marker = writes_a_file(own/'RN50.pt'); backbone(own, name='RN50', weights=str(own/'RN50.pt'))
    weights, option = (own/'RN50.pt', ['--weights', own/'RN50.pt']) if given else (None, [])
    with pytest.raises(ModelError): TRMML.load(own, weights, progress=False)
    table = 'complete', own, place/'labels.csv', '--photos', place/'photos'
    for command in ('predict', own, place/'photos'), table:
        code, out, err = trmml_says(capsys, *command, '--quiet', *option)
        assert code == 3 and out == '' and 'RN50.pt' in err
    assert not marker.exists()


def test_a_model_holds_no_path(place, own, capsys, tmp_path):
    "Trained on weights of a file: that file is given again, and has to be the same."
    from safetensors.torch import load_file, save_file

    from trmml import clip
    file, other, photos = tmp_path/'eyes.safetensors', tmp_path/'other.safetensors', place/'photos'
    state = load_file(clip.doodle_file()); save_file(state, file)
    save_file(state | {k: v*2 for k, v in state.items() if v.is_floating_point()}, other)
    first = TRMML.load(own, progress=False).predict(photos)
    model = TRMML.load(own, file, progress=False)
    pd.testing.assert_frame_equal(model.predict(photos), first, check_exact=True); model.save(own)
    text = (own/'model.json').read_text() + (own/'README.md').read_text()
    assert 'eyes' not in text and str(tmp_path) not in text and '"weights": "file"' in text
    with pytest.raises(ModelError, match='pass weights='): TRMML.load(own, progress=False)
    with pytest.raises(ModelError, match='other weights.*sha256'):
        TRMML.load(own, other, progress=False)
    for option, want in ((), 3), (('--weights', other), 3), (('--weights', file), 0):
        assert trmml_says(capsys, 'predict', own, photos, '--quiet', *option)[0] == want
        one = 'explain', own, next(photos.iterdir()), '--out', tmp_path/'r.png', '--quiet'
        assert trmml_says(capsys, *one, *option)[0] == want


PREDICT = [
    ('no picture in the folder', lambda r: ('predict', r/'model', r/'model'), 'holds no picture', 2),
    ('no model', lambda r: ('predict', r/'photos', r/'photos'), 'no model.json', 3),
    ('an argument is missing', lambda r: ('predict', r/'model'), 'Missing argument', 2),
    ('confidence as a percentage', lambda r: ('complete', r/'model', r/'labels.csv', '--photos', r/'photos', '--confidence', '90'), 'from .5 to 1', 2),
    ('unknown class', lambda r: ('explain', r/'model', sorted((r/'photos').iterdir())[0], '--class', 'yeti'), "no class 'yeti'", 2),
    ('picture of an unknown kind', lambda r: ('explain', r/'model', sorted((r/'photos').iterdir())[0], '--out', 'map.gif'), 'end in .png', 2),
    ('no such table of the paper', lambda r: ('table', '99'), 'table 99', 2),
    ('result is a folder', lambda r: ('predict', r/'model', r/'photos', '--out', r), 'is a folder', 2),
    ('result has an empty name', lambda r: ('predict', r/'model', r/'photos', '--out', ''), 'is empty', 2),
    ('result of complete is a folder', lambda r: ('complete', r/'model', r/'labels.csv', '--photos', r/'photos', '--out', r), 'is a folder', 2),
    ('photos is a variable that is not set', lambda r: ('predict', r/'model', ''), 'name is empty', 2),
    ('photos lie elsewhere', lambda r: ('predict', r/'model', lone(r)), 'or name the folder they are in: --images', 2),
    ('complete without the folder', lambda r: ('complete', r/'model', lone(r)), 'give the folder they are in as photos', 2),
    ('explain a folder', lambda r: ('explain', r/'model', r/'photos'), 'which is a folder', 2),
    ('no such device', lambda r: ('predict', r/'model', r/'photos', '--device', 'gpu'), "device='gpu'", 2),
    ('no such weights', lambda r: ('predict', r/'model', r/'photos', '--weights', 'nosuch'), 'pass weights=', 3),
    ('a file for the model', lambda r: ('predict', r/'model'/'model.json', r/'photos'), 'is a file, no folder', 3),
    ('no cells to ask for', lambda r: ('ask', r/'model', r/'labels.csv', '--photos', r/'photos', '-n', '0'), 'n=0', 2),
    ('coverage above all', lambda r: ('complete', r/'model', r/'labels.csv', '--photos', r/'photos', '--coverage', '2'), 'from 0 to 1', 2),
    ('nothing to measure by', lambda r: ('evaluate', r/'model', r/'photos', spoil(r, no_positives)), 'nothing to measure by', 2),
    ('swapped in complete', lambda r: ('complete', r/'model', r/'photos', '--photos', r/'labels.csv'), 'swapped', 2),
    ('info of a folder of photos', lambda r: ('info', r/'photos'), 'no model.json', 3),
]


@pytest.mark.parametrize('name,args,words,want', PREDICT, ids=[p[0] for p in PREDICT])
def test_other_commands(place, capsys, name, args, words, want):
    code, out, err = trmml_says(capsys, *args(place))
    assert code == want and words in err and out == '' and 'Traceback' not in err


def test_photos_of_a_table_elsewhere(place, capsys, tmp_path):
    "With --images their folder is named: on the way to standard output, and to a file."
    table = tmp_path/'few.csv'
    names = sorted(p.name for p in (place/'photos').iterdir())[:2]
    table.write_text('\n'.join(['image', *names]))
    one = 'predict', place/'model', table, '--images', place/'photos', '--quiet'
    code, out, _ = trmml_says(capsys, *one)
    assert code == 0 and [line.split(',')[0] for line in out.splitlines()[1:]] == names
    assert trmml_says(capsys, *one, '--out', tmp_path/'p.csv')[0] == 0 and (tmp_path/'p.csv').read_text() == out


PYTHON = [   # name, what is done with a table, its photos and a saved model; words of the message
    ('no list of names', lambda t, p, m: TRMML(classes=5), 'expected a list of names'),
    ('an empty list of names', lambda t, p, m: TRMML(classes=[]), 'leave it out'),
    ('a picture too large', lambda t, p, m: TRMML(image_size=4096), 'up to 2048'),
    ('words for numbers', lambda t, p, m: TRMML(epochs='ten'), "epochs='ten'"),
    ('a share in words', lambda t, p, m: TRMML(held_out='.2'), 'a share'),
    ('no seed', lambda t, p, m: TRMML(seed=None), 'seed=None'),
    ('workers in words', lambda t, p, m: TRMML(workers='many'), "or 'auto'"),
    ('settings in a list', lambda t, p, m: TRMML(settings=[1]), 'expected a dict'),
    ('a setting twice', lambda t, p, m: TRMML(settings=dict(epochs=3)), 'pass epochs=3'),
    ('a setting the method has not', lambda t, p, m: TRMML(**QUICK, settings=dict(alpa=1)).fit(p, t), "no setting 'alpa'"),
    ('a name of 200 words', lambda t, p, m: TRMML(**QUICK).fit(p, t.rename(columns={'dog': 'dog '*200})), 'shorten it'),
    ('labels only', lambda t, p, m: TRMML(**QUICK).fit(t), 'give the folder of the photos first'),
    ('labels in a dict', lambda t, p, m: TRMML(**QUICK).fit(p, dict(dog=[1])), 'a dict is no table'),
    ('two columns of a name', lambda t, p, m: TRMML(**QUICK).fit(p, t[['dog', 'cat', 'dog']]), "two columns are called 'dog'"),
    ('a table without rows', lambda t, p, m: TRMML(**QUICK).fit(p, t[:0]), 'no rows'),
    ('a table without columns', lambda t, p, m: TRMML(**QUICK).fit(p, t[[]]), 'one for each class'),
    ('a photo without a name', lambda t, p, m: TRMML(**QUICK).fit(p, t.set_axis([None, *t.index[1:]])), 'is no name of a photo'),
    ('valid is no pair', lambda t, p, m: TRMML(**QUICK).fit(p, t, valid=t), 'expected a pair'),
    ('valid lacks a class', lambda t, p, m: TRMML(**QUICK).fit(p, t, valid=(p, t.drop(columns='dog'))), "no column 'dog'"),
    ('a table to predict', lambda t, p, m: m.predict(t), 'no list of paths'),
    ('an open picture', lambda t, p, m: m.predict([np.zeros((8, 8, 3))]), 'item 0 is a ndarray'),
    ('no photos', lambda t, p, m: m.predict(None), 'none are given'),
    ('no picture of no class', lambda t, p, m: m.explain(next(p.iterdir()), k=0), 'k=0'),
    ('a confidence in words', lambda t, p, m: m.complete(t, p, confidence='high'), 'from .5 to 1'),
    ('an array without photos', lambda t, p, m: m.complete(t.to_numpy()), 'one path for each row'),
    ('a filled table into a folder', lambda t, p, m: filling.Filled(t, t).to_csv(p), 'is a folder'),
    ('new classes without a name', lambda t, p, m: m.add_classes(['']), 'no name of a class'),
    ('no new classes', lambda t, p, m: m.add_classes([]), 'no name is given'),
    ('a gallery before fit', lambda t, p, m: browse.gallery(TRMML(), p, 'dog'), 'not fitted'),
    ('predictions of other photos', lambda t, p, m: browse.gallery(m, p, 'dog', predictions=m.predict(p)[:2]), 'are of 2 photos'),
    ('fewer than no questions', lambda t, p, m: browse.ask(m, t, p, n=-1), 'n=-1'),
    ('answers that are no answers', lambda t, p, m: browse.answered(t, t), "no column 'image'"),
]


@pytest.mark.parametrize('name,do,words', PYTHON, ids=[p[0] for p in PYTHON])
def test_python(place, monkeypatch, name, do, words):
    "Before any training; the photos and the model stay as they were."
    def never(*_, **__): raise AssertionError('training began')
    monkeypatch.setattr(fitting, 'train', never); before = {f: f.stat().st_mtime_ns for f in place.rglob('*') if f.is_file() and 'features' not in f.parts}
    table, model = pd.read_csv(place/'labels.csv', index_col=0), TRMML.load(place/'model', progress=False)
    with pytest.raises((ValueError, FileNotFoundError, TypeError)) as error: do(table, place/'photos', model)
    assert words in str(error.value) and {f: f.stat().st_mtime_ns for f in place.rglob('*') if f.is_file() and 'features' not in f.parts} == before


def test_what_is_no_wrong_use(place, monkeypatch):
    "Near misses that have one meaning."
    model = TRMML.load(place/'model', progress=False); table = pd.read_csv(place/'labels.csv', index_col=0); paths = sorted((place/'photos').iterdir())
    assert len(model.explain(paths[0], classes='dog').axes) == len(model.explain(paths[0], classes=['dog']).axes)
    twice = model.complete(table, paths + paths[:2]); pd.testing.assert_frame_equal(twice.labels, model.complete(table, place/'photos').labels)   # twice in the list is once
    class Stop(Exception): pass
    def stop(*_, **__): raise Stop
    monkeypatch.setattr(fitting, 'train', stop)
    numbers = table.iloc[:, :3].set_axis([0, 1, 2], axis=1)
    with pytest.raises(Stop): TRMML(**QUICK, classes=[0, 2]).fit(place/'photos', numbers)
    with pytest.raises(Stop): TRMML(**QUICK).fit(place/'photos', table['dog'])                 # one class
    with pytest.raises(Stop): TRMML(**QUICK).fit(place/'photos', table.where(table == 1))      # positives alone
    with pytest.raises(Stop): table[-3:].to_csv(place/'rest.csv'); TRMML(**QUICK).fit(place/'photos', table[:-3], valid=trmml.data.load(place/'rest.csv', images=place/'photos'))


def test_a_photo_that_is_none(place, capsys, tmp_path):
    (tmp_path/'photos').mkdir(); (tmp_path/'photos'/'broken.png').write_bytes(b'nothing')
    for p in sorted((place/'photos').iterdir())[:4]: shutil.copy(p, tmp_path/'photos')
    code, out, err = trmml_says(capsys, 'predict', place/'model', tmp_path/'photos', '--quiet')
    assert code == 2 and 'broken.png' in err and '--skip-unreadable' in err.replace('_', '-').replace('=True', '') or 'skip_unreadable' in err
    code, out, err = trmml_says(capsys, 'predict', place/'model', tmp_path/'photos', '--quiet', '--skip-unreadable', '--json')
    assert code == 0 and set(json.loads(out)['broken.png'].values()) == {None} and len(json.loads(out)) == 5


def test_full_disk_keeps_the_old_model(place, own, capsys, monkeypatch):
    def full(*_): raise OSError(errno.ENOSPC, 'No space left on device')
    model, before = TRMML.load(own, progress=False), {p.name: p.read_bytes() for p in own.iterdir()}
    for what in ('tensor_bytes', 'write_whole'):
        monkeypatch.setattr(saving, what, full)
        with pytest.raises(OSError, match='make room') as error: model.save(own)
        assert cli.code_of(error.value) == 4 and {p.name: p.read_bytes() for p in own.iterdir()} == before
        monkeypatch.undo()
    TRMML.load(own, progress=False)


def test_an_existing_folder_of_something_else_is_left_alone(place, tmp_path):
    (tmp_path/'diary.txt').write_text('mine')
    with pytest.raises(ValueError, match='no model of trmml'): TRMML.load(place/'model', progress=False).save(tmp_path)
    assert (tmp_path/'diary.txt').read_text() == 'mine'


def test_nothing_before_fit():
    for call in (lambda m: m.predict('x'), lambda m: m.save('x'), lambda m: m.complete('x')):
        with pytest.raises(ValueError, match='not fitted'): call(TRMML())


def test_commands_agree_with_python(place, capsys, tmp_path):
    (tmp_path/'photos').mkdir(); t = pd.read_csv(place/'labels.csv', dtype=object).head(8); t.to_csv(tmp_path/'labels.csv', index=False)
    for name in t.image: shutil.copy(place/'photos'/name, tmp_path/'photos')
    model = TRMML.load(place/'model', progress=False)
    code, out, _ = trmml_says(capsys, 'predict', place/'model', tmp_path/'photos', '--quiet', '--out', tmp_path/'p.csv')
    assert code == 0 and out.strip() == str(tmp_path/'p.csv')
    np.testing.assert_allclose(pd.read_csv(tmp_path/'p.csv', index_col=0), model.predict(tmp_path/'photos'), rtol=1e-5)
    code, out, _ = trmml_says(capsys, 'complete', place/'model', tmp_path/'labels.csv', '--photos', tmp_path/'photos', '--quiet', '--out', tmp_path/'f.csv')
    before, after = (pd.read_csv(f, index_col=0) for f in (tmp_path/'labels.csv', tmp_path/'f.csv'))
    assert code == 0 and (after.where(before.notna()).fillna(9) == before.fillna(9)).all(axis=None) and (tmp_path/'f.confidence.csv').exists()
    code, out, _ = trmml_says(capsys, 'evaluate', place/'model', place/'photos', place/'labels.csv', '--quiet', '--json')
    assert code == 0 and 0 < json.loads(out)['mAP_interval'][0] < json.loads(out)['mAP'] <= 1
    code, out, _ = trmml_says(capsys, 'explain', place/'model', sorted((tmp_path/'photos').iterdir())[0], '--quiet', '--out', tmp_path/'r.png')
    assert code == 0 and (tmp_path/'r.png').read_bytes()[:4] == b'\x89PNG'
    code, out, _ = trmml_says(capsys, 'ask', place/'model', tmp_path/'labels.csv', '--photos', tmp_path/'photos', '-n', '3', '--quiet')
    assert code == 0 and len(out.strip().splitlines()) == 4
    code, out, _ = trmml_says(capsys, 'info', place/'model')
    assert code == 0 and out.startswith('# A TRM-ML photo classifier')


# a training of six epochs of two steps, that waits in the second step of the fourth for a signal from outside
LISTENS = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n'   # what was started in the background inherits deafness
WAITS = """
import sys, time
from trmml import cli
from trmml.photos import fitting
loss, calls = fitting.TextRegionMatching.loss, []
def waits(*args):
    calls.append(1)
    if len(calls) == 8: print('waits', flush=True); time.sleep(300)
    return loss(*args)
fitting.TextRegionMatching.loss = waits
cli.main(sys.argv[1:])
"""


def test_ctrl_c_goes_on(place, tmp_path):
    env = dict(os.environ, PYTHONWARNINGS='ignore'); fits = place/'features'/'fits'; assert not list(fits.glob('*.ckpt'))
    four = (pd.read_csv(place/'labels.csv', index_col=0) == 1).sum().nlargest(4).index.tolist()   # classes: a text tower's work
    args = ['fit', str(place/'photos'), str(place/'labels.csv'), *BACKBONE, '--epochs', '6', '--batch', '12', '--out', str(tmp_path/'model')]
    for name in four: args += ['--class', name]
    run = subprocess.Popen([sys.executable, '-c', LISTENS + WAITS, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = run.stdout.readline(); run.send_signal(signal.SIGINT); out, err = run.communicate(timeout=240)
    assert (said, out, run.returncode) == ('waits\n', '', 130) and 'goes on from there' in err and 'Traceback' not in err
    assert len(list(fits.glob('*.ckpt'))) == 1 and not (tmp_path/'model').exists()
    done, whole, how = [], fitting.train, QUICK | dict(epochs=6, batch=12, classes=four)
    def counted(method, *a, **k):
        from trmml.train import load_checkpoint, optimizer
        done.append(len(load_checkpoint(k['checkpoint'], method, optimizer(method)))); return whole(method, *a, **k)
    with pytest.MonkeyPatch.context() as m, warnings.catch_warnings():
        warnings.simplefilter('ignore'); m.setattr(fitting, 'train', counted)
        model = TRMML(**how).fit(place/'photos', place/'labels.csv')
        for file in model.checkpoints_: file.unlink()
        clean = TRMML(**how).fit(place/'photos', place/'labels.csv')
    assert done == [3, 0, 0, 0] + 4*[0] and len(model.log_) == 6   # the fourth was not finished
    pd.testing.assert_frame_equal(model.predict(place/'photos'), clean.predict(place/'photos'), check_exact=True)
    model.save(tmp_path/'model'); clean.save(tmp_path/'again')
    assert not list(fits.glob('*.ckpt'))   # a saved model needs none


@pytest.mark.parametrize('umask,mode', [(0o022, 0o644), (0o027, 0o640)], ids=oct)
def test_a_colleague_can_read_the_model(place, tmp_path, umask, mode):
    "Permissions of all three files follow the umask."
    model, before = TRMML.load(place/'model', progress=False), os.umask(umask)
    try: model.save(tmp_path/'model')
    finally: os.umask(before)
    assert [oct(p.stat().st_mode & 0o777) for p in (tmp_path/'model').iterdir()] == [oct(mode)]*3


def test_a_failed_save_leaves_nothing_new(place, own, monkeypatch):
    "The tensors are written, what follows is not: other tensors than those of the folder are taken away again."
    model, before = TRMML.load(own, progress=False), {p.name: p.read_bytes() for p in own.iterdir()}
    model.method_.matcher.queries.data.mul_(2)
    def full(path, data):
        if Path(path).name == 'model.json': raise OSError(errno.ENOSPC, 'No space left on device')
        return write_whole(path, data)
    write_whole = saving.write_whole
    monkeypatch.setattr(saving, 'write_whole', full)
    with pytest.raises(OSError, match='make room'): model.save(own)
    after = {p.name: p.read_bytes() for p in own.iterdir()}
    assert set(after) == set(before) and after['model.json'] == before['model.json']


def test_a_save_that_was_killed_can_be_repeated(place, tmp_path):
    (tmp_path/'model').mkdir(); (tmp_path/'model'/'weights-0123456789ab.safetensors.17-ab.tmp').write_bytes(b'half')
    TRMML.load(place/'model', progress=False).save(tmp_path/'model')
    assert len(list((tmp_path/'model').iterdir())) == 3


def test_quick_answers(tmp_path):
    "The version, and that there are no tables outside a clone, need no torch."
    code = 'import sys; from trmml import cli\ntry: cli.main(sys.argv[1:])\nexcept SystemExit as stop: print(stop.code, "torch" in sys.modules)'
    for args, said in ((['--version'], f'trmml {trmml.__version__}\n0 False\n'), (['table', '1'], '2 False\n')):
        done = subprocess.run([sys.executable, '-c', code, *args], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout == said and (args[0] != 'table' or 'in a clone of the repository' in done.stderr)


def test_the_package_lists_its_public_name():
    code = 'import sys, trmml; print("TRMML" in dir(trmml), trmml.__all__, "torch" in sys.modules); from trmml import *; print(TRMML.__name__)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == "True ['TRMML'] False\nTRMML\n", done.stderr


def test_settings_are_attributes():
    from sklearn.base import clone
    model = TRMML(seed=3, classes=['a', 'b'])
    assert clone(model).get_params() == model.get_params() and vars(model) == model.get_params()
    with pytest.raises(ValueError, match='epochs=0'): model.set_params(seed=4, epochs=0)
    assert model.seed == 3
