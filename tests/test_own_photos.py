"""The way from photos and a table with blanks to predictions, exactly as 01_data shows it."""
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from trmml.data import load
from trmml.labels import partial
from trmml.tables import write_csv

ROOT = Path(__file__).resolve().parents[1]
COCO128 = ROOT.parent/'shared'/'data'/'coco128'


@pytest.fixture
def lines():
    cells = [c.source for c in nbformat.read(ROOT/'nbs'/'01_data.ipynb', 4).cells if c.cell_type == 'code' and 'trmml.data.load(labels_csv)' in c.source]
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
    exec(compile(lines, '01_data', 'exec'), given)
    ds, out = given['ds'], pd.read_csv(tmp_path/'predictions.csv', index_col='image')
    assert (ds.labels == partial(whole.labels, .33)).all() and .3 < ds.card['known'] < .36
    assert list(out.index) == whole.paths and list(out.columns) == whole.classes and out.to_numpy().min() >= 0 and out.to_numpy().max() <= 1
    yes, no = (out.to_numpy()[ds.labels == v].mean() for v in (1, -1))
    assert yes > no + .1


def test_the_readme_typed_by_a_new_user(tmp_path, monkeypatch):
    "The lines of the README, on doodles as a folder and a table with 70 % blanks; identical predictions after loading."
    section = (ROOT/'README.md').read_text().split('## Your own photos')[1].split('\n## ')[0]
    code = section.split('```python\n')[1].split('```')[0]
    assert len(code.strip().splitlines()) <= 12
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'features')); monkeypatch.setenv('MPLBACKEND', 'agg')
    ds = load('doodles', 'train', root=tmp_path, train=40, test=4, progress=False, n_jobs=1)
    shutil.copytree(Path(ds.paths[0]).parent, tmp_path/'photos')
    write_csv(tmp_path/'labels.csv', [Path(p).name for p in ds.paths], ds.classes, partial(ds.labels, .3))
    (tmp_path/'typed.py').write_text(code.replace('TRMML(backbone="doodle-clip")', 'TRMML(backbone="doodle-clip", epochs=3)'))
    done = subprocess.run([sys.executable, 'typed.py'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '40 photos' in done.stderr and 'training:' in done.stderr and done.stdout == ''
    before, after = (pd.read_csv(tmp_path/n, index_col=0) for n in ('labels.csv', 'filled.csv'))
    assert before.isna().to_numpy().mean() > .6 and after.notna().to_numpy().sum() > before.notna().to_numpy().sum()
    assert {'regions.png', 'filled.confidence.csv'} <= {p.name for p in tmp_path.iterdir()} and (tmp_path/'model'/'README.md').exists()
