"""Saved models that were damaged or forged: each is refused with its file and field, none is used in silence, none takes memory."""
import json
import os
import random
import shutil
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save

import trmml.data
from trmml import TRMML, cli
from trmml.data.table import write_csv
from trmml.files import file_hash
from trmml.labels import partial
from trmml.photos import ModelError, saving
from trmml.photos.model_file import checksum, escaped

CLASSES = ['=cmd|calc', '<script>alert(1)</script>', '[x](javascript:1)', '![](http://x/y.png)']   # names that others may give


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A model with zero-shot part, matcher and cross-fitted scores; its photos."
    root = tmp_path_factory.mktemp('damaged')
    with pytest.MonkeyPatch.context() as m, warnings.catch_warnings():
        m.setenv('TRMML_FEATURES', str(root/'features')); warnings.simplefilter('ignore')
        ds = trmml.data.load('doodles', 'train', root=root, train=24, test=4, progress=False, n_jobs=1)
        photos = Path(ds.paths[0]).parent
        table = write_csv(root/'labels.csv', [Path(p).name for p in ds.paths], ds.classes, partial(ds.labels, .5))
        TRMML(backbone='doodle-clip', epochs=2, workers=0, progress=False).fit(photos, table).save(root/'model')
        yield root/'model', photos


@pytest.fixture
def own(saved, tmp_path): return Path(shutil.copytree(saved[0], tmp_path/'model'))


def said_of(folder): return json.loads((folder/'model.json').read_text())


def write(folder, said, seal=True):
    "As a forger would, whose checksum is right."
    if seal: said = said | dict(checksum=checksum(said))
    (folder/'model.json').write_text(json.dumps(said))


def flipped(raw, rng):
    "One bit."
    raw = bytearray(raw); k = rng.randrange(len(raw)); raw[k] ^= 1 << rng.randrange(8); return bytes(raw)


def test_flips_of_model_json(own):
    "160 single bits: refused with the file's name, or without effect."
    rng, raw, good = random.Random(0), (own/'model.json').read_bytes(), saving.read_json(own)
    refused = 0
    for _ in range(160):
        (own/'model.json').write_bytes(flipped(raw, rng))
        try: assert saving.read_json(own) == good
        except ModelError as error: refused += 1; assert str(own) in str(error) and '\n' not in str(error)
    assert refused > 100   # the rest is space between entries


def test_every_digit_counts(own):
    "A digit of a number, wherever it is: the checksum, if nothing else."
    text, rng = (own/'model.json').read_text(), random.Random(1)
    places = [k for k, c in enumerate(text) if c.isdigit()]
    for k in rng.sample(places, 60):
        (own/'model.json').write_text(text[:k] + str((int(text[k]) + 1) % 10) + text[k+1:])
        try: same = saving.read_json(own) == json.loads(text)   # such as the last digit of a float
        except ModelError: continue
        assert same


def test_flips_and_cuts_of_weights(own):
    rng, file = random.Random(2), next(own.glob('weights-*')); raw = file.read_bytes()
    for k in range(100):
        file.write_bytes(flipped(raw, rng) if k % 5 else raw[:rng.randrange(len(raw))])
        with pytest.raises(ModelError, match='sha256 differs'): saving.read_model(own)


def test_an_older_file_has_no_checksum(own, saved):
    said = said_of(own); del said['checksum']; write(own, said, seal=False)
    want = TRMML.load(saved[0], progress=False).predict(saved[1])
    pd.testing.assert_frame_equal(TRMML.load(own, progress=False).predict(saved[1]), want, check_exact=True)


BIG, NAN, DEEP = 10**400, float('nan'), None
for _ in range(500): DEEP = [DEEP]
WRONG = [   # field, value; None as the field's last part: the entry is taken away
    ('format', True), ('format', 1.), ('format', '2'), ('format', BIG), ('weights', 5), ('weights', '../weights-0123456789ab.safetensors'), ('weights', '/etc/passwd'), ('sha256', 'x'),
    ('sha256', ['0'*64]), ('classes', 'ab'), ('classes', []), ('classes', [None]*20), ('classes', ['a']*20), ('classes', {'a': 1}), ('classes', list(range(20))), ('classes', ['a'*10**5]*20),
    ('prompts', ['cat']), ('prompts', {'a': 1}), ('prompts', [''] + ['a']*19), ('backbone', []), ('backbone.name', 'hf-hub:a/b'), ('backbone.name', 'local-dir:/x'), ('backbone.name', 'RN5O'),
    ('backbone.name', 7), ('backbone.weights', [1]), ('backbone.weights', '/x/y.pt'), ('backbone.weights', 'laion2b'), ('backbone.image_size', 32000), ('backbone.image_size', -1),
    ('backbone.image_size', 64.), ('backbone.image_size', True), ('backbone.d', 10**12), ('backbone.d', 64), ('backbone.sha256', 'z'*64), ('backbone.path', '/x'), ('calibration.a', 'x'),
    ('calibration.a', [NAN]*20), ('calibration.a', [-1.]*20), ('calibration.b', [2.**64]*20), ('calibration.b', [BIG]*20), ('calibration.b', [0.]*19), ('calibration.shared', [1.]),
    ('calibration.delta', [0.]*20), ('thresholds', [NAN]*20), ('thresholds', [1.5]*20), ('thresholds', [None]*20), ('thresholds', [True]*20), ('thresholds', .5), ('thresholds', [BIG]*20),
    ('zero_shot', 3), ('zero_shot', ['yeti']), ('metrics', 3), ('metrics', dict(mAP=.5)), ('metrics.mAP', NAN), ('metrics.CF1', 'x'), ('metrics.mAP_interval', [0.]), ('facts', None),
    ('facts.positives', 3), ('facts.negatives', [-1]), ('facts.trained_on', .5), ('facts.folds', 'x'), ('cross', 'ab'), ('cross', [1]), ('settings', []), ('settings.device', 'cpu'),
    ('settings.epochs', 0), ('settings.epochs', 'x'), ('settings.batch', -1), ('settings.prompts', 'x'), ('settings.seed', -1), ('settings.seed', 2.5), ('settings.held_out', 2),
    ('settings.folds', -1), ('settings.settings', [1]), ('versions', None), ('versions.trmml', 5), ('checksum', 5), ('surprise', 1), ('facts.settings', DEEP)]
MISSING = ['weights', 'sha256', 'classes', 'prompts', 'backbone', 'calibration', 'thresholds', 'zero_shot', 'metrics', 'facts', 'settings', 'versions', 'backbone.name', 'backbone.weights',
           'backbone.sha256', 'calibration.shared', 'facts.positives', 'versions.trmml']


@pytest.mark.parametrize('field, value', WRONG, ids=[f'{k}-{f}' for k, (f, _) in enumerate(WRONG)])
def test_a_wrong_value_is_named(own, field, value):
    "With the checksum of a forger, and without: one sentence with the field."
    said, (*where, last) = said_of(own), field.split('.')
    part = said
    for name in where: part = part[name]
    part[last] = value
    for seal in (True, False):
        try: write(own, said, seal and field != 'checksum')
        except (ValueError, RecursionError): continue   # numbers that Python does not print
        with pytest.raises(ModelError) as caught: TRMML.load(own, progress=False)
        text = str(caught.value)
        assert f'model.json: {where[0] if where else last}' in text and last in text and len(text) < 800 and '\n' not in text


@pytest.mark.parametrize('field', MISSING)
def test_a_missing_field_is_named(own, field):
    said, (*where, last) = said_of(own), field.split('.')
    part = said
    for name in where: part = part[name]
    del part[last]; write(own, said)
    with pytest.raises(ModelError, match=f'model.json: {field}: .*missing'): TRMML.load(own, progress=False)


@pytest.mark.parametrize('raw, words', [(b'', 'cannot be read'), (b'[1]', 'cannot be read'), (b'['*10**6, 'cannot be read'), (b'{"a":'*10**5, 'cannot be read'), (b'\xff\xfe{', 'cannot be read'),
                                        (b'{"format": ' + b'9'*10**3 + b'}', 'format 9'), (b'{"format": ' + b'9'*10**5 + b'}', 'more than can be printed|cannot be read'), (b'{"format": 1e999}', 'cannot be read'), (b'{"format": "\\ud800"}', 'cannot be read'), (bytes(1000), 'cannot be read')])
def test_what_is_no_json(own, raw, words):
    (own/'model.json').write_bytes(raw)
    with pytest.raises(ModelError, match=words) as caught: TRMML.load(own, progress=False)
    assert str(own) in str(caught.value) and len(str(caught.value)) < 500


def with_tensors(own, change):
    "The tensors changed, every hash right."
    file = next(own.glob('weights-*')); state = load_file(file); file.unlink()
    raw = save({k: v.contiguous() for k, v in change(state).items()}); (own/'new').write_bytes(raw); sha = file_hash(own/'new')
    os.rename(own/'new', own/f'weights-{sha[:12]}.safetensors')
    write(own, said_of(own) | dict(weights=f'weights-{sha[:12]}.safetensors', sha256=sha))


FORGED = {'nan in it': lambda s: s | {'start.T': s['start.T'] + float('nan')}, 'inf in it': lambda s: s | {'weight': s['weight'] + float('inf')},
          'another d': lambda s: s | {'start.T': torch.zeros(20, 64)}, 'fewer classes': lambda s: s | {'start.T': torch.zeros(3, 128)}, 'nothing of a huge size': lambda s: s | {'start.T': torch.zeros(20, 0)},
          'an empty tensor of 10^12 columns': lambda s: s | {'matcher.more': torch.zeros(0, 10**12)}, 'an empty context of 10^12 columns': lambda s: s | {'matcher.ctx': torch.zeros(0, 10**12)}, 'double': lambda s: s | {'mean': s['mean'].double()}, 'whole numbers': lambda s: s | {'std': torch.ones(20, dtype=torch.int32)},
          'one missing': lambda s: {k: v for k, v in s.items() if k != 'weight'}, 'one too many': lambda s: s | {'more': torch.zeros(3)}, 'scores of other photos': lambda s: s | {'cross.scores': s['cross.scores'][:5]},
          'labels that are none': lambda s: s | {'cross.labels': s['cross.labels']*0 + 7}, 'no scores': lambda s: {k: v for k, v in s.items() if k != 'cross.scores'},
          'more classes than there are': lambda s: s | {'matcher.queries': torch.zeros(21, 128), 'matcher.G': torch.zeros(2, 21, 128)}, 'half a matcher': lambda s: {k: v for k, v in s.items() if 'decoder' not in k}}


@pytest.mark.parametrize('kind', FORGED)
def test_tensors_that_do_not_fit(own, kind):
    with_tensors(own, FORGED[kind])
    with pytest.raises(ModelError) as caught: TRMML.load(own, progress=False)
    assert 'weights-' in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_tensors_are_looked_at_before_they_are_read(own, monkeypatch):
    with_tensors(own, FORGED['fewer classes'])
    monkeypatch.setattr(saving, 'load_file', lambda *_: pytest.fail('the tensors were read'))
    with pytest.raises(ModelError, match='names 20 classes, the tensors are of 3'): TRMML.load(own, progress=False)


def test_a_header_that_lies(own):
    "Lengths beyond the file, and text that is no JSON."
    file = next(own.glob('weights-*'))
    for raw in (b'', (2**60).to_bytes(8, 'little') + b'{}', (2).to_bytes(8, 'little') + b'[]', b'\x80'*500, (80).to_bytes(8, 'little') + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,9000000000000]}}'.ljust(80)):
        file.write_bytes(raw); write(own, said_of(own) | dict(sha256=file_hash(file)))
        with pytest.raises(ModelError, match='weights-.*no file of tensors'): saving.read_model(own)


def test_a_model_with_nan_is_not_saved(saved, tmp_path):
    model = TRMML.load(saved[0], progress=False); model.save(tmp_path/'m'); before = {p.name: p.read_bytes() for p in (tmp_path/'m').iterdir()}
    model.method_.start.T.fill_(float('nan'))
    with pytest.raises(ModelError, match='start.T holds numbers that are not finite'): model.save(tmp_path/'m')
    assert {p.name: p.read_bytes() for p in (tmp_path/'m').iterdir()} == before


def test_names_of_others_in_the_card(own, capsys):
    "Links, tags, cells and control characters in names of classes are shown as they are."
    said = said_of(own); names = CLASSES + ['a|b', 'two\nlines', '\x1b[2Jred', '`code`'] + said['classes'][8:]
    write(own, said | dict(classes=names))
    with pytest.raises(SystemExit) as stop: cli.main(['info', str(own)])
    out = capsys.readouterr().out; rows = [l for l in out.splitlines() if l.startswith('| ')]
    assert not stop.value.code and len(rows) == 1 + 20 and '<' not in out and '\x1b' not in out and 'http://x' not in out and 'two lines' in out
    assert all(l.replace('\\|', '').count('|') == 6 for l in rows) and '\n'.join(rows).count('[') == '\n'.join(rows).count('\\[')
    assert escaped('New York_2 (old)') == 'New York_2 (old)'
