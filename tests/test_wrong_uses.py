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
from trmml import TRMML, cli, estimator
from trmml.labels import partial
from trmml.tables import write_csv

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


def with_two(t): t.iloc[3, 2] = '2'; return t
def no_negatives(t): return t.replace('0', '')
def no_positives(t): return t.replace('1', '')
def missing_photo(t): t.loc[5, 'image'] = 'gone.png'; return t
def twice(t): t.loc[5, 'image'] = t.loc[4, 'image']; return t


FIT = [   # name, arguments after `fit`, words of the message
    ('arguments swapped', lambda r: (r/'labels.csv', r/'photos'), 'swapped'),
    ('a label is 2', lambda r: (r/'photos', spoil(r, with_two)), "row 5, column"),
    ('unknown column', lambda r: (r/'photos', r/'labels.csv', '--class', 'no such thing', '--class', 'neither'), "has no column 'no such thing'"),
    ('one class', lambda r: (r/'photos', spoil(r, lambda t: t.iloc[:, :2])), 'one class'),
    ('one photo', lambda r: (r/'photos', spoil(r, lambda t: t.iloc[:1])), 'at least 10 are needed'),
    ('no negatives', lambda r: (r/'photos', spoil(r, no_negatives)), 'no cell says 0'),
    ('no positives', lambda r: (r/'photos', spoil(r, no_positives)), 'no cell says 1'),
    ('a photo is missing', lambda r: (r/'photos', spoil(r, missing_photo)), 'gone.png'),
    ('a photo stands there twice', lambda r: (r/'photos', spoil(r, twice)), 'stands in row'),
    ('no such table', lambda r: (r/'photos', r/'none.csv'), 'no such table'),
    ('no such folder', lambda r: (r/'none', r/'labels.csv'), 'no such folder'),
    ('unknown backbone', lambda r: (r/'photos', r/'labels.csv', '--backbone', 'RN5O'), 'unknown backbone'),
    ('backbone that cannot be used', lambda r: (r/'photos', r/'labels.csv', '--backbone', 'coca_ViT-B-32'), 'CoCa'),
    ('a share as a percentage', lambda r: (r/'photos', r/'labels.csv', '--held-out', '20'), 'a share in'),
    ('folder for the model is not there', lambda r: (r/'photos', r/'labels.csv', '--out', r/'no'/'model'), 'make it first'),
]


@pytest.mark.parametrize('name,args,words', FIT, ids=[f[0] for f in FIT])
def test_fit(place, capsys, name, args, words):
    given = [*args(place)]; backbone = [] if '--backbone' in given else BACKBONE[:2]
    out = [] if '--out' in given else ['--out', place/'new']
    code, said, err = trmml_says(capsys, 'fit', *given, *backbone, *BACKBONE[2:], *out)
    assert code == 2 and words in err and said == '' and not (place/'new').exists()
    assert len(err.strip().splitlines()) == 1 and 'Traceback' not in err


def drop_tensors(m): next(m.glob('weights-*')).unlink()
def drop_json(m): (m/'model.json').unlink()
def cut_json(m): (m/'model.json').write_text((m/'model.json').read_text()[:300])
def tamper(m): f = next(m.glob('weights-*')); b = bytearray(f.read_bytes()); b[-5] ^= 1; f.write_bytes(b)
def newer(m): s = json.loads((m/'model.json').read_text()); s['format'] = 99; (m/'model.json').write_text(json.dumps(s))
def other_backbone(m): s = json.loads((m/'model.json').read_text()); s['backbone']['sha256'] = '0'*64; (m/'model.json').write_text(json.dumps(s))


SPOILT = [('half copied: no tensors', drop_tensors, 'copied by half'), ('half copied: no json', drop_json, 'copied by half'), ('json cut off', cut_json, 'cannot be read'),
          ('tampered weights', tamper, 'sha256 differs'), ('of a newer format', newer, 'format 99'), ('wrong backbone', other_backbone, 'other weights')]


@pytest.mark.parametrize('name,how,words', SPOILT, ids=[s[0] for s in SPOILT])
def test_model_folder(place, own, capsys, name, how, words):
    how(own)
    code, out, err = trmml_says(capsys, 'predict', own, place/'photos', '--quiet')
    assert code == 3 and words in err and out == '' and len(err.strip().splitlines()) == 1


PREDICT = [
    ('a folder of folders', lambda r: ('predict', r/'model', r), 'holds folders', 2),
    ('no picture in the folder', lambda r: ('predict', r/'model', r/'model'), 'holds no picture', 2),
    ('no model', lambda r: ('predict', r/'photos', r/'photos'), 'no model.json', 3),
    ('an argument is missing', lambda r: ('predict', r/'model'), 'Missing argument', 2),
    ('confidence as a percentage', lambda r: ('complete', r/'model', r/'labels.csv', '--photos', r/'photos', '--confidence', '90'), 'from .5 to 1', 2),
    ('unknown class', lambda r: ('explain', r/'model', sorted((r/'photos').iterdir())[0], '--class', 'yeti'), "no class 'yeti'", 2),
    ('picture of an unknown kind', lambda r: ('explain', r/'model', sorted((r/'photos').iterdir())[0], '--out', 'map.gif'), 'end in .png', 2),
    ('no such table of the paper', lambda r: ('table', '99'), 'table 99', 2),
]


@pytest.mark.parametrize('name,args,words,want', PREDICT, ids=[p[0] for p in PREDICT])
def test_other_commands(place, capsys, name, args, words, want):
    code, out, err = trmml_says(capsys, *args(place))
    assert code == want and words in err and out == '' and 'Traceback' not in err


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
    for what in ('save_file', 'write_whole'):
        monkeypatch.setattr(estimator, what, full)
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
    code, out, _ = trmml_says(capsys, 'evaluate', place/'model', tmp_path/'photos', tmp_path/'labels.csv', '--quiet', '--json')
    assert code == 0 and 0 < json.loads(out)['mAP'] <= 1
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
from trmml import cli, estimator
loss, calls = estimator.TextRegionMatching.loss, []
def waits(*args):
    calls.append(1)
    if len(calls) == 8: print('waits', flush=True); time.sleep(300)
    return loss(*args)
estimator.TextRegionMatching.loss = waits
cli.main(sys.argv[1:])
"""


def test_ctrl_c_goes_on(place, tmp_path):
    env = dict(os.environ, PYTHONWARNINGS='ignore'); fits = place/'features'/'fits'; assert not list(fits.glob('*.ckpt'))
    four = (pd.read_csv(place/'labels.csv', index_col=0) == 1).sum().nlargest(4).index.tolist()   # classes: a text tower's work
    args = ['fit', str(place/'photos'), str(place/'labels.csv'), *BACKBONE, '--epochs', '6', '--batch', '12', '--out', str(tmp_path/'model')]
    for name in four: args += ['--class', name]
    run = subprocess.Popen([sys.executable, '-c', LISTENS + WAITS, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = run.stdout.readline(); run.send_signal(signal.SIGINT); out, err = run.communicate(timeout=240)
    assert (said, out, run.returncode) == ('waits\n', '', 130) and 'goes on from where it was' in err and 'Traceback' not in err
    assert len(list(fits.glob('*.ckpt'))) == 1 and not (tmp_path/'model').exists()
    done, whole, how = [], estimator.train, QUICK | dict(epochs=6, batch=12, classes=four)
    def counted(method, *a, **k):
        from trmml.learner import load_checkpoint, optimizer
        done.append(len(load_checkpoint(k['checkpoint'], method, optimizer(method)))); return whole(method, *a, **k)
    with pytest.MonkeyPatch.context() as m, warnings.catch_warnings():
        warnings.simplefilter('ignore'); m.setattr(estimator, 'train', counted)
        model = TRMML(**how).fit(place/'photos', place/'labels.csv')
        model.checkpoint_.unlink()
        clean = TRMML(**how).fit(place/'photos', place/'labels.csv')
    assert done == [3, 0] and len(model.log_) == 6   # the fourth was not finished
    pd.testing.assert_frame_equal(model.predict(place/'photos'), clean.predict(place/'photos'), check_exact=True)
    model.save(tmp_path/'model'); clean.save(tmp_path/'again')
    assert not list(fits.glob('*.ckpt'))   # a saved model needs none
