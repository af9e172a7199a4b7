"""ONNX of whole models against torch, on photos; predictions into a file, killed and gone on with."""
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import trmml.data
from photos import PHOTOS
from trmml import TRMML, cli

warnings.simplefilter('ignore')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "24 photos in two folders, a saved model of three classes."
    root = tmp_path_factory.mktemp('export'); os.environ['TRMML_FEATURES'] = str(root/'features')
    ds = trmml.data.load('doodles', 'train', root=root, train=24, test=4, progress=False, n_jobs=1)
    at = (ds.labels == 1).sum(0).argsort()[-3:]
    m = TRMML([ds.classes[i] for i in at], 'doodle-clip', epochs=1, workers=0, progress=False)
    m.fit(list(ds.paths), (ds.labels[:, at] == 1).astype(int)).save(root/'model')
    for k, p in enumerate(ds.paths):
        (root/'photos'/f'film{k % 2}').mkdir(parents=True, exist_ok=True); os.link(p, root/'photos'/f'film{k % 2}'/f'{k}.png')
    yield root
    del os.environ['TRMML_FEATURES']


@pytest.fixture
def model(place): return TRMML.load(place/'model', progress=False)


def as_input(path, size):
    img = Image.open(path).convert('RGB').resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(img, np.float32).transpose(2, 0, 1)/255


def test_onnx_on_photos(place, model):
    ort = pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    paths = sorted(PHOTOS.rglob('*.jpg'))[:4]
    net = ort.InferenceSession(str(model.export(place/'m.onnx')))
    x = np.stack([as_input(p, 256) for p in paths])
    p, r = net.run(['probabilities', 'regions'], dict(images=x))
    assert abs(p - model.predict(paths).to_numpy()).max() < 1e-4
    looked = np.stack([model.look(q)[1] for q in paths]); assert r.shape == looked.shape and abs(r - looked).max() < 1e-4
    said = net.get_modelmeta().custom_metadata_map
    assert json.loads(said['classes']) == list(model.classes_) and said['image_size'] == '256'
    np.testing.assert_allclose(net.run(None, dict(images=x[2:3]))[0], p[2:3], atol=1e-5)   # any number of images
    assert model.method_.clip.device.type == 'cpu' and not (place/'m.onnx.tmp').exists()


def test_what_cannot_be_exported(place, model, monkeypatch):
    from trmml.photos import export
    with pytest.raises(ValueError, match='let the name end in .onnx'): model.export(place/'m.pt')
    with pytest.raises(FileNotFoundError, match='make it first'): model.export(place/'no'/'m.onnx')
    monkeypatch.setattr(export, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'export needs onnx, onnxscript, onnxruntime: pip install "trmml\[export\]"'): model.export(place/'n.onnx')
    monkeypatch.undo(); monkeypatch.setattr(export, 'write_onnx', lambda net, path, said: path.write_bytes(b'x')); monkeypatch.setattr(export, 'differences', lambda *_: 1e-3)
    with pytest.raises(RuntimeError, match='onnxruntime differs from torch by 1.0e-03; not written'): model.export(place/'n.onnx')
    assert not list(place.glob('n.onnx*'))


WAITS = """
import sys, time
from trmml import cli
from trmml.photos import kept, matcher
kept.BLOCK = 4
def slow(*args):
    kept.keep(*args); print('block', flush=True)
    if args[1] == 12: time.sleep(300)
matcher.keep = slow
cli.main(sys.argv[1:])
"""


@contextlib.contextmanager
def counted(block):
    "How many photos are scored inside, with blocks of this size."
    from trmml.photos import kept, matcher
    n, real = [], matcher.raw_of
    with pytest.MonkeyPatch.context() as m:
        m.setattr(kept, 'BLOCK', block); m.setattr(matcher, 'raw_of', lambda method, f: n.append(len(f.pooled)) or real(method, f))
        yield n


def test_killed_and_gone_on_with(place, model, capsys):
    out = place/'p.csv'; args = ['predict', str(place/'model'), str(place/'photos'), '--out', str(out), '--quiet']
    run = subprocess.Popen([sys.executable, '-c', WAITS, *args], stdout=subprocess.PIPE, env=dict(os.environ, PYTHONWARNINGS='ignore'), text=True)
    for _ in range(3): assert run.stdout.readline() == 'block\n'
    run.kill(); run.communicate()
    assert not out.exists() and (place/'p.csv.journal').exists() and (place/'p.csv.part').exists()
    with counted(4) as seen, pytest.raises(SystemExit): cli.main(args)
    assert sum(seen) == 12 and capsys.readouterr().out.strip() == str(out)   # twelve were done
    found = pd.read_csv(out, index_col='image')
    assert list(found.index[:3]) == ['film0/0.png', 'film0/2.png', 'film0/4.png'] and found.index[-1] == 'film1/23.png'   # natural order
    np.testing.assert_allclose(found, model.predict(place/'photos'), atol=1e-6)
    assert [p.name for p in place.glob('p.csv*')] == ['p.csv']


def test_a_journal_is_doubted(place, model, monkeypatch):
    "Changed photos, spoilt numbers and another model are computed again."
    from trmml.photos import scores_to_file as s
    out, write = place/'q.csv', s.write_table
    def again():
        with counted(8) as n: model.predict_to(out, place/'photos')
        return sum(n)
    def left(): monkeypatch.setattr(s, 'write_table', lambda *_: None); again(); monkeypatch.setattr(s, 'write_table', write)
    left(); assert again() == 0
    left(); os.utime(place/'photos'/'film0'/'2.png', (1, 1)); assert again() == 8   # one block
    left(); part = place/'q.csv.part'; data = bytearray(part.read_bytes()); data[-1] ^= 1; part.write_bytes(data); assert again() == 8
    left(); model.calibration_ = model.calibration_._replace(b=[v + 1 for v in model.calibration_.b]); assert again() == 24
    assert out.is_file()


def test_unreadable_and_parquet(place, model, tmp_path):
    for k, p in enumerate(sorted((place/'photos').rglob('*.png'))[:6]): os.link(p, tmp_path/f'{k}.png')
    (tmp_path/'7.png').write_bytes(b''); (tmp_path/'8.jpg').write_bytes(b'<html>')
    with pytest.raises(ValueError, match='(?s)2 of 8 images cannot be read.*7.png.*empty.*8.jpg.*web page.*What is done is kept'): model.predict_to(place/'x.parquet', tmp_path)
    table = pd.read_parquet(model.predict_to(place/'x.parquet', tmp_path, labels=True, skip_unreadable=True))
    assert table.isna().all(axis=1).tolist() == [False]*6 + [True]*2
    pd.testing.assert_frame_equal(table, model.predict_labels(tmp_path, skip_unreadable=True), check_column_type=False)
    for name, words in (('x.txt', 'end in .csv or .parquet'), ('', 'is a folder'), ('no/x.csv', 'make it first')):
        with pytest.raises((ValueError, FileNotFoundError), match=words): model.predict_to(place/name, tmp_path)


def test_precision(place, model):
    "bfloat16 differs by little; another word is refused; small encoders and few photos stay in float32."
    paths = sorted((place/'photos').rglob('*.png'))
    exact, low = (model.predict(paths, precision=p).to_numpy() for p in ('float32', 'bfloat16'))
    assert 0 < abs(exact - low).max() < .05 and np.array_equal(exact, model.predict(paths).to_numpy())
    with pytest.raises(ValueError, match="precision='half': use one of auto, float32, bfloat16"): model.predict(paths, precision='half')
