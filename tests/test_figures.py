"""Figures: files that stay the same, alternative texts that arrive where notebooks are read, one look per method."""
import base64
import json
import re
import sys
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

matplotlib.use('agg')
import matplotlib.pyplot as plt

from trmml import viz
from trmml.report import component_figures, effects, figures
from trmml.viz import looks

ROOT = Path(__file__).resolve().parents[1]
OWN = [ROOT/'nbs'/f for f in ('viz/0_viz', 'viz/0b_looks', 'viz/1_images', 'viz/2_regions', 'report/3_figures', 'report/4_component_figures',
                              'report/4b_effects')]


def pictures(path):
    "(mime type, metadata) of every stored picture of a notebook."
    for c in nbformat.read(path.with_suffix('.ipynb'), 4).cells:
        for o in c.get('outputs', []):
            for mime in o.get('data', {}):
                if mime.startswith('image/'): yield mime, o.metadata


@pytest.mark.parametrize('path', OWN, ids=lambda p: p.name)
def test_every_stored_picture_has_an_alternative_text(path):
    found = list(pictures(path))
    assert found and not [m for mime, m in found if len(m.get(mime, {}).get('alt', '')) < 6]


def drawn(title='two lines', image=False):
    fig, ax = plt.subplots(figsize=(3, 2), layout='constrained')
    ax.plot([0, 1, 0], label='one')
    if image: ax.imshow(np.eye(3))
    ax.set(title=title, xlabel='x')
    return fig


def notebook(view):
    "A notebook whose only output is a picture, as IPython stores it."
    from IPython.core.formatters import DisplayFormatter
    data, metadata = DisplayFormatter().format(view)
    cell = nbformat.v4.new_code_cell('draw()', outputs=[nbformat.v4.new_output('display_data', dict(data), metadata=metadata)])
    cell.outputs[0].data = {k: v if isinstance(v, str) else base64.b64encode(v).decode() for k, v in data.items()}
    return nbformat.v4.new_notebook(cells=[cell])


@pytest.mark.parametrize('image', [False, True], ids=['lines', 'image'])
def test_an_alternative_text_arrives(image):
    nb = notebook(viz.thumbnail(drawn(image=image), alt='a roof "of lines"'))
    [o] = nb.cells[0].outputs
    assert o.metadata == {'image/jpeg' if image else 'image/png': {'alt': 'a roof "of lines"'}} and o.data['text/plain'] == 'a roof "of lines"'
    nbconvert = pytest.importorskip('nbconvert')
    html = nbconvert.HTMLExporter(template_name='classic').from_notebook_node(nb)[0]
    assert re.search(r'''alt=['"]a roof "of lines"['"]''', unescape(html))
    sys.path.insert(0, str(ROOT/'nbs'))
    try: conf = pytest.importorskip('conf')
    finally: sys.path.remove(str(ROOT/'nbs'))
    source = [nbformat.writes(nb)]
    conf.without_directives(SimpleNamespace(env=SimpleNamespace(doc2path=lambda name: Path('a.ipynb'))), 'a', source)
    assert json.loads(source[0])['cells'][0]['metadata']['mystnb'] == {'image': {'alt': 'a roof "of lines"'}}


def test_a_text_is_made_of_the_figure_where_none_is_given():
    fig = drawn()
    fig.axes[0].legend()
    assert viz.describe(fig) == 'Figure: two lines; x; one'
    assert viz.thumbnail(fig).alt == 'Figure: two lines; x; one'


def test_a_figure_is_the_same_bytes_every_time(tmp_path):
    for n in 'ab':
        viz.save(drawn(), tmp_path/f'{n}.png')
        plt.close('all')
    assert (tmp_path/'a.png').read_bytes() == (tmp_path/'b.png').read_bytes() and (tmp_path/'a.svg').read_bytes() == (tmp_path/'b.svg').read_bytes()
    with Image.open(tmp_path/'a.png') as img: assert (img.size, img.mode, round(img.info['dpi'][0])) == ((600, 400), 'P', 200)
    assert not re.search(rb'<dc:date>|Matplotlib v', (tmp_path/'a.svg').read_bytes())
    viz.save(drawn(image=True), tmp_path/'c.png')
    assert not (tmp_path/'c.svg').exists()


def test_a_large_vector_file_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules['trmml.viz.images'], 'LARGEST', 100)
    viz.save(drawn(), tmp_path/'a.png')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.png']


def test_stored_figures_are_small():
    large = {p.name: p.stat().st_size for p in (ROOT/'results'/'figures').iterdir() if p.stat().st_size > 400_000}
    assert not large


COLOR = re.compile(r"'(#[0-9A-Fa-f]{6})'")


def test_no_other_module_of_figures_has_a_colour_of_its_own():
    methods = {s['color'].upper() for s in (*looks.STYLE.values(), *looks.PEERS.values())} - {'#777777', '#000000'}
    for path in [*(ROOT/'trmml'/'viz').glob('*.py'), *(ROOT/'trmml'/'report').glob('*.py')]:
        if path.stem == 'looks': continue
        taken = {c.upper() for c in COLOR.findall(path.read_text())} & methods
        assert not taken, f'{path.name}: {taken} are colours of methods; take those of trmml.viz.looks'


def test_comparisons_are_not_in_colours_of_methods():
    df = pd.DataFrame([dict(method=m, known=k, seed=s, mAP=50 + 3*(m == 'b') + s/9) for m in 'ab' for k in (10., 50.) for s in range(3)])
    of_methods = {s['color'] for s in (*looks.STYLE.values(), *looks.PEERS.values())} - {'#000000', '#777777'}
    for fig in (component_figures.gain_curve(df, {'x': ('b', 'a')}), component_figures.waterfall(df, ['a', 'b'], {'x': 'a'}),
                effects.stated_figure(df, 'a', ['b'], {'b': 1.})):
        seen = {c for ax in fig.axes for l in ax.lines for c in [l.get_color()]}
        assert not seen & of_methods
        plt.close(fig)


def test_curves_of_table_1_have_their_names_at_their_ends():
    df = pd.read_csv(ROOT/'results'/'tables'/'table1-doodles-runs.csv')
    fig = figures.curve_figure(df)
    names = [t.get_text() for ax in fig.axes for t in ax.texts]
    assert len(names) == len(set(names)) == df.method.nunique() and {t.get_fontsize() for ax in fig.axes for t in ax.texts} == {looks.FONT}
    assert not fig.legends
    plt.close(fig)


def test_labels_are_moved_apart_and_keep_their_order():
    rng = np.random.RandomState(0)
    for _ in range(20):
        y = rng.rand(9)
        moved = figures.spaced(y, .1)
        assert np.diff(np.sort(moved)).min() > .1 - 1e-3 and (np.argsort(moved) == np.argsort(y)).all()
