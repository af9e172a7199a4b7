"""Your own photos: from a table with blanks to predictions as data/00_data and the README show it, the tutorial on photographs, the front door."""
import importlib
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pandas as pd
import pytest

from trmml.data import load
from trmml.labels import partial
from trmml.data.table import write_csv

ROOT = Path(__file__).resolve().parents[1]
COCO128 = ROOT.parent/'shared'/'data'/'coco128'


@pytest.fixture
def lines():
    cells = [c.source for c in nbformat.read(ROOT/'nbs'/'data/00_data.ipynb', 4).cells if c.cell_type == 'code' and 'trmml.data.load(labels_csv)' in c.source]
    assert len(cells) == 1
    return cells[0]


def test_it_is_short_and_complete(lines):
    code = [line for line in lines.splitlines() if line.strip()]
    assert len(code) <= 12 and all(w in lines for w in ('extract(', 'fit(', 'predict(', 'to_csv('))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.skipif(not COCO128.is_dir(), reason='shared/data/coco128 is not beside the repository')
def test_from_a_table_with_blanks_to_predictions(lines, tmp_path, monkeypatch):
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'features'))
    whole = load(COCO128)
    labels_csv = write_csv(tmp_path/'labels.csv', whole.paths, whole.classes, partial(whole.labels, .33))
    given = dict(labels_csv=labels_csv, predictions_csv=tmp_path/'predictions.csv')
    exec(compile(lines, 'data/00_data', 'exec'), given)
    ds, out = given['ds'], pd.read_csv(tmp_path/'predictions.csv', index_col='image')
    assert (ds.labels == partial(whole.labels, .33)).all() and .3 < ds.card['known'] < .36
    assert list(out.index) == whole.paths and list(out.columns) == whole.classes and out.to_numpy().min() >= 0 and out.to_numpy().max() <= 1
    yes, no = (out.to_numpy()[ds.labels == v].mean() for v in (1, -1))
    assert yes > no + .1


def test_the_readme_typed_by_a_new_user(tmp_path, monkeypatch):
    "The lines of the README, on doodles as a folder and a table with 70 % blanks; identical predictions after loading."
    section = (ROOT/'README.md').read_text().split('**Use** it')[1].split('\n## ')[0]
    code = section.split('```python\n')[1].split('```')[0]
    assert len(code.strip().splitlines()) <= 12
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'features')); monkeypatch.setenv('MPLBACKEND', 'agg')
    ds = load('doodles', 'train', root=tmp_path, train=40, test=4, progress=False, n_jobs=1)
    shutil.copytree(Path(ds.paths[0]).parent, tmp_path/'photos')
    write_csv(tmp_path/'labels.csv', [Path(p).name for p in ds.paths], ds.classes, partial(ds.labels, .3))
    (tmp_path/'typed.py').write_text(code.replace('TRMML(backbone="RN50")', 'TRMML(backbone="doodle-clip", epochs=3)'))
    done = subprocess.run([sys.executable, 'typed.py'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '40 photos' in done.stderr and 'training:' in done.stderr and done.stdout == ''
    before, after = (pd.read_csv(tmp_path/n, index_col=0) for n in ('labels.csv', 'filled.csv'))
    assert before.isna().to_numpy().mean() > .6 and after.notna().to_numpy().sum() > before.notna().to_numpy().sum()
    assert {'regions.png', 'filled.confidence.csv'} <= {p.name for p in tmp_path.iterdir()} and (tmp_path/'model'/'README.md').exists()


@pytest.mark.filterwarnings('ignore')
@pytest.mark.skipif(not COCO128.is_dir(), reason='shared/data/coco128 is not beside the repository')
def test_the_tutorial_on_photographs(tmp_path, monkeypatch):
    "128 photos of COCO by parameters: the table is filled, the loop goes round, the model comes back."
    for name, value in dict(TRMML_FEATURES=str(tmp_path/'features'), MPLBACKEND='agg').items(): monkeypatch.setenv(name, value)
    given = dict(coco128=str(COCO128), out=str(tmp_path), epochs=1)
    papermill.execute_notebook(ROOT/'nbs'/'tutorials/own_photos.ipynb', tmp_path/'done.ipynb', given, cwd=ROOT, progress_bar=False, log_level='WARNING')
    said = ''.join(o.get('text', '') for c in nbformat.read(tmp_path/'done.ipynb', 4).cells if c.cell_type == 'code' for o in c.outputs)
    assert '128 photos, 80 classes, 69% of the cells blank' in said and 'mAP on cells that are still blank' in said and 'bit for bit' in said
    folder = tmp_path/'runs'/'own_photos'
    before, after, asked = (pd.read_csv(folder/n, index_col=0) for n in ('labels.csv', 'filled.csv', 'next.csv'))
    assert after.shape == before.shape == (128, 80) and after.notna().to_numpy().sum() > before.notna().to_numpy().sum() and len(asked) == 200
    assert (after.where(before.notna()).fillna(9) == before.fillna(9)).all(axis=None) and (folder/'model'/'model.json').exists()


def test_import_is_light():
    "Without a warning, and nothing heavy before it is needed."
    code = "import sys, trmml; print({'torch', 'numpy', 'pandas', 'matplotlib', 'open_clip', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, '', 'set()')
    done = subprocess.run([sys.executable, '-c', "import sys; from trmml import TRMML; TRMML(); print('matplotlib.pyplot' in sys.modules)"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == 'False', done.stderr


TEXT = dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=2)
FAMILIES = {
    'tiny-vit': dict(embed_dim=16, vision_cfg=dict(layers=2, width=32, head_width=8, patch_size=16, image_size=64), text_cfg=TEXT),
    'tiny-siglip': dict(embed_dim=64, custom_text=True, init_logit_bias=-10, vision_cfg=dict(timm_model_name='test_vit', timm_pool='map', timm_proj='none', image_size=160),
                        text_cfg=TEXT | dict(width=64, no_causal_mask=True, proj_bias=True, pool_type='last')),
    'tiny-convnext': dict(embed_dim=24, vision_cfg=dict(timm_model_name='test_convnext', timm_pool='', timm_proj='linear', image_size=160), text_cfg=TEXT),
    'RN-tiny': dict(embed_dim=16, vision_cfg=dict(layers=[1, 1, 1, 1], width=8, image_size=64), text_cfg=TEXT)}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_of_backbones_fits_saves_and_comes_back(name, tmp_path, monkeypatch):
    "By name, with random weights: the way of a photographer, and the image tower alone behind the saved model."
    import json

    import open_clip

    from trmml import TRMML
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'features'))
    (tmp_path/f'{name}.json').write_text(json.dumps(FAMILIES[name])); open_clip.add_model_config(tmp_path/f'{name}.json')
    ds = load('doodles', 'train', root=tmp_path, train=24, test=4, progress=False, n_jobs=1)
    table = pd.DataFrame(partial(ds.labels, .5), index=ds.paths, columns=ds.classes).replace({0: pd.NA, -1: 0})
    model = TRMML(backbone=name, weights=None, epochs=1, workers=0, prompts='shared', progress=False).fit(ds.paths, table)
    again = TRMML.load(model.save(tmp_path/'model'), progress=False)
    pd.testing.assert_frame_equal(again.predict(ds.paths), model.predict(ds.paths), check_exact=True)
    regions = again.regions(ds.paths[0]); assert list(regions) == ds.classes and regions[ds.classes[0]].ndim == 2
    assert list(again.add_classes('umbrella').predict(ds.paths[:2]).columns) == [*ds.classes, 'umbrella']


OWN = ('clip.backbones', 'photos.given', 'photos.calibration', 'photos.figures', 'photos.settings', 'photos.matcher', 'photos.fitting', 'photos.predicting', 'photos.looking',
       'photos.filling', 'photos.new_names', 'photos.saving', 'photos.browse', 'cli', 'report.filling', 'report.calibration')


@pytest.mark.parametrize('name', OWN)
def test_every_public_name_is_documented(name):
    "A docstring for all that a module gives, and for the methods of its classes."
    module = importlib.import_module(f'trmml.{name}')
    public = {n: o for n in module.__all__ if inspect.isfunction(o := getattr(module, n)) or inspect.isclass(o)}
    assert len(public) > 2
    own = {f'{n}.{k}': getattr(m, 'fget', None) or m for n, o in public.items() if inspect.isclass(o) for k, m in vars(o).items()
           if not k.startswith('_') and (inspect.isfunction(m) or getattr(m, 'fget', None)) and (m.fget if isinstance(m, property) else m).__name__ != '<lambda>'}
    bare = [n for n, o in (public | own).items() if not (o.__doc__ or '').strip() or o.__doc__.startswith(n + '(')]   # a NamedTuple's own is none
    assert not bare


def test_what_a_photographer_calls_says_what_it_raises_and_returns():
    from trmml import TRMML
    for name in ('fit', 'predict', 'predict_labels', 'evaluate', 'score', 'regions', 'explain', 'complete', 'add_classes', 'save', 'load'):
        method = getattr(TRMML, name); source = inspect.getsource(method)
        assert 'Raises' in method.__doc__ and source.count('#') >= 2, name


def test_reader_processes_follow_photos_and_device(monkeypatch):
    "Folders of any size, devices by name or as torch has them; on a CPU the backbone keeps most cores."
    import torch

    from trmml import TRMML
    from trmml.features import reading
    monkeypatch.setattr(reading, 'cpu_count', lambda: 8); monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    got = {str(d): [TRMML(device=d).n_workers(n) for n in (10, 64, 5000)] for d in ('auto', 'cpu', torch.device('cpu'), 'cuda:0')}
    assert got['cpu'] == [0, 2, 2] and got['cuda:0'] == [0, 4, 4] and got['auto'] in (got['cpu'], got['cuda:0'])
    assert TRMML(workers=3).n_workers(10) == 3
