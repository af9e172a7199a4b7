"""Real photos, 128 of COCO or a dozen: through Table 1 and Figure 4, with doodle-clip and with an RN50 from a file in OpenAI's format."""
from pathlib import Path

import open_clip
import papermill
import pandas as pd
import pytest
import torch

from photos import DOZEN, PHOTOS
from trmml.clip import OPENAI_MARKS

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.xdist_group('photos')   # Figure 4 shows what Table 1 has trained: one process for both


@pytest.fixture(scope='module', params=['doodle-clip', 'RN50', 'doodle-clip, a dozen'])
def setting(request, tmp_path_factory):
    "Parameters of a companion notebook: a backbone, its weights, a size that tests can afford."
    if 'doodle-clip' in request.param: return dict(backbone='doodle-clip', image_size=128, dataset=str(DOZEN if 'dozen' in request.param else PHOTOS))
    torch.manual_seed(0)
    state = open_clip.create_model('RN50', pretrained=None).state_dict()
    path = tmp_path_factory.mktemp('weights')/'RN50.pt'
    marks = {k: torch.tensor(n) for k, n in zip(OPENAI_MARKS, (224, 77, 49408))}
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()} | marks, path)
    return dict(backbone='RN50', weights=str(path), image_size=96, dataset=str(PHOTOS))


@pytest.fixture(scope='module')
def out(setting, tmp_path_factory):
    "Where both notebooks write: Figure 4 shows the models that Table 1 has trained."
    return tmp_path_factory.mktemp('out')


def execute(name, out, **parameters):
    common = dict(data_root=str(out/'data'), out=str(out), epochs=1)
    papermill.execute_notebook(ROOT/'nbs'/f'{name}.ipynb', out/f'{name}.ipynb', common | parameters, progress_bar=False, log_level='WARNING')


def test_table1(setting, out):
    execute('table1', out, methods=['zeroshot', 'trmml'], ratios=[.5], seeds=[0], **setting)
    [path] = (p for p in (out/'tables').glob(f'table1-{Path(setting["dataset"]).name}*.csv') if not p.stem.endswith('runs'))   # other than usual parameters are part of the name
    assert len(pd.read_csv(f'{path.with_suffix("")}-runs.csv')) == 2
    table = pd.read_csv(path, index_col=0)
    measured = table[table['50_seeds'] > 0]
    assert sorted(measured.index) == ['trmml', 'zeroshot'] and measured['50_mean'].between(0, 100).all()
    assert (out/'figures'/f'{path.stem}.png').stat().st_size > 5_000 and len(list((out/'runs').glob('*.json'))) == 2


def test_figure4(setting, out):
    before = {p: p.stat().st_mtime_ns for p in (out/'runs').glob('*.json')}
    execute('figure4', out, methods=['trmml'], seeds=[0], pictures=2, **setting)
    figures = list((out/'figures').glob(f'figure4-{Path(setting["dataset"]).name}*.png'))                      # other than usual parameters are part of the name
    assert max(p.stat().st_size for p in figures) > 10_000 and f'figure4-{Path(setting["dataset"]).name}' not in {p.stem for p in figures}
    assert before and all(p.stat().st_mtime_ns == t for p, t in before.items())       # trained for the table, not again
