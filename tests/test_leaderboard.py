"""The leaderboard: its numbers are those of results/, every method has a row, one's own too, and its filters work in a browser."""
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from scipy.stats import t as student

from trmml import runs
from trmml.methods import METHODS, TITLES, register
from trmml.report import leaderboard as lb, parameters
from trmml.train import Method

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tests'))
from test_labelling_browser import browser   # noqa: E402,F401  a fixture

LIBRARY = [m for m, (place, _) in METHODS.items() if isinstance(place, str) and place.startswith('trmml.')]   # without those of other tests
STORED = ROOT/'results'/'tables'
SECTIONS = ['', 'Measured on doodles, mAP in %', 'What it needs', 'Published, mean mAP in %', 'Cost', 'Regions, in %']


class Read(HTMLParser):
    "What a page shows: rows by method, each with (text, number to sort by) by column."
    def __init__(self, page):
        super().__init__()
        self.rows, self.heads, self.groups, self.inside, self.text, self.tags = {}, [], [], None, '', []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if 'data-method' in given: self.rows[given['data-method']] = given | dict(cells={})
        if tag in ('td', 'th'): self.inside, self.text = given, ''

    def handle_data(self, data): self.text += data

    def handle_endtag(self, tag):
        if tag not in ('td', 'th'): return
        if not self.rows: (self.heads if self.inside['scope'] == 'col' else self.groups).append(self.text)
        else: self.rows[[*self.rows][-1]]['cells'][self.inside['data-col']] = self.text, self.inside.get('data-v')


@pytest.fixture(scope='module')
def page(): return lb.page(*lb.board(LIBRARY, out=ROOT/'no-runs'))


@pytest.fixture(scope='module')
def shown(page): return Read(page)


def of(shown, method, column):
    text, value = shown.rows[method]['cells'][column]
    return text, None if value is None else float(value)


# ---- numbers

def test_every_method_of_the_registry_has_a_row(shown):
    assert sorted(shown.rows) == sorted(LIBRARY)
    assert {m: r['cells']['method'][0] for m, r in shown.rows.items()} == {m: TITLES[m] for m in LIBRARY}


def test_all_sections_are_there(shown):
    assert shown.groups == SECTIONS
    assert {'MS-COCO', 'VOC 2007', 'VG-200', 'source', 'partial labels', 'one positive', 'parameters, M', 'GMACs', 'training, s',
            'pointing game', 'IoU', 'learns from', 'published in'} <= {*shown.heads}
    assert all(len(r['cells']) == len(shown.heads) for r in shown.rows.values())


@pytest.mark.parametrize('column, name, what', [('table1', 'table1-doodles', 'avg'), ('table2', 'table2-doodles', 'avg'),
                                                ('game', 'regions-doodles', 'pointing game'), ('iou', 'regions-doodles', 'IoU')])
def test_measured_numbers_are_those_of_the_tables(shown, column, name, what):
    t = pd.read_csv(STORED/f'{name}.csv').set_index('method')
    for m in LIBRARY:
        text, value = of(shown, m, column)
        if m not in t.index:
            assert value is None and text == ('not run' if column.startswith('table') else '–')
            continue
        mean, std, n = (t.loc[m, f'{what}_{k}'] for k in ('mean', 'std', 'seeds'))
        half = '' if n == 1 else f' ± {student.ppf(.975, n - 1)*std/n**.5:.1f}'
        assert value == mean and text == f'{mean:.1f}{half} ({n})'
    assert len({*t.index} & {*LIBRARY}) >= 3


def test_the_intervals_are_those_of_the_runs(shown):
    "From single runs, another way than from means and deviations."
    df = pd.read_csv(STORED/'table1-doodles-runs.csv')
    for m in 'trmml', 'dualcoop', 'sst-frozen':
        each = df[df.method == m].groupby('seed').mAP.mean()
        half = student.ppf(.975, len(each) - 1)*each.sem()
        assert float(re.search(r'± ([\d.]+)', of(shown, m, 'table1')[0])[1]) == pytest.approx(half, abs=.06)


def test_published_numbers_are_those_of_the_paper(shown):
    one, two = (pd.read_csv(ROOT/'results'/'paper'/f'table{k}.csv') for k in (1, 2))
    seen = set()
    for (d, name), avg in one.set_index(['dataset', 'method']).avg.items():
        [m] = [m for m, t in lb.PRINTED.items() if t == name and not m.endswith('-frozen')] if name in lb.PRINTED.values() else [None]
        m = m or dict(zip(TITLES.values(), TITLES))[name.replace('+', ' + ')]
        assert of(shown, m, f'of {d}') == (f'{avg:.1f}', avg) and 'Table 1' in shown.rows[m]['cells']['source'][0]
        seen.add((m, d))
    for _, r in two.iterrows():
        m = next(k for k, t in lb.PRINTED.items() if t == r.method and not k.endswith('-frozen'))
        for s in ('largeloss', 'splc'):
            if pd.notna(r[f'{s}_avg']):
                assert of(shown, m, f'of {s}') == (f"{r[f'{s}_avg']:.1f}", r[f'{s}_avg'])
                seen.add((m, s))
    every = {(m, c.removeprefix('of ')) for m, r in shown.rows.items() for c, (_, v) in r['cells'].items() if c.startswith('of ') and v}
    more = {k for k in lb.published().index if k not in seen}   # of other papers, each with its source
    assert seen and every == seen | {(m, d) for m, d in more if m in LIBRARY}
    assert all(shown.rows[m]['cells']['source'][0] not in ('', '–') for m, _ in every)


def test_costs_are_those_of_the_tables(shown):
    counted, seconds = (pd.read_csv(STORED/f'{n}.csv').set_index('method') for n in ('leaderboard-costs', 'costs'))
    runs_of = [pd.read_csv(STORED/f'table{k}-doodles-runs.csv').groupby('method').seconds.min().to_dict() for k in (2, 1)]
    fastest = runs_of[0] | runs_of[1] | seconds.seconds.to_dict()
    for m in LIBRARY:
        for k in 'learnable', 'G':
            text, value = of(shown, m, k)
            assert (value, text) == ((counted[k][m], f'{counted[k][m]:,.2f}') if m in counted.index else (None, '–'))
        assert of(shown, m, 'seconds') == ((f'{fastest[m]:,.1f}', pytest.approx(fastest[m], abs=1e-4)) if m in fastest else ('–', None))
    assert len({*counted.index} & {*LIBRARY}) >= 41


def test_counted_costs_are_those_of_table_5():
    five, own = pd.read_csv(STORED/'table5.csv').set_index('method'), lb.stored_table('leaderboard-costs')
    for m in 'dualcoop', 'scpnet', 'trmml':
        for k in 'learnable', 'total', 'G': assert own.loc[m, k] == pytest.approx(five.loc[TITLES[m], k], abs=.011), (m, k)


def test_citations_agree_with_the_tables():
    c = lb.citations()
    for k in 1, 2:
        for _, r in pd.read_csv(ROOT/'results'/'paper'/f'table{k}.csv').iterrows():
            m = lb.keys_of().get(r.method) or lb.keys_of()[r.method.replace('+', ' + ')]
            if r.venue == 'Ours': assert c.loc[m, ['venue', 'year', 'number']].tolist() == ['MM', '2024', '']
            else: assert f"{c.venue[m]}'{c.year[m][2:]}".lower() == r.venue.lower() and c.number[m] == f'{r.citation:.0f}', m


def test_published_settings_are_counted(shown):
    t = pd.read_csv(STORED/'as-published.csv')
    for m in {*t.method} & {*LIBRARY}:
        own = t[t.method == m]
        assert shown.rows[m]['cells']['settings'][0] == f"{len(own)}, {own.verdict.isin(['documented', 'silent']).sum()} otherwise"


def test_a_file_with_more_published_numbers_is_read(tmp_path):
    (tmp_path/'paper').mkdir()
    for p in (ROOT/'results'/'paper').glob('*.csv'): (tmp_path/'paper'/p.name).write_bytes(p.read_bytes())
    (tmp_path/'paper'/'zz-later.csv').write_text('method,dataset,avg,source\nCoOp (our variant),new-set,12.3,another paper\ntrmml,voc2007,1.0,wrong\n'
                                                 'nobody,new-set,5,x\n')
    shown = Read(lb.page(*lb.board(['coop', 'trmml'], tmp_path, out=tmp_path)))
    assert of(shown, 'coop', 'of new-set') == ('12.3', 12.3) and shown.rows['coop']['cells']['source'][0] == 'another paper'
    assert of(shown, 'trmml', 'of voc2007')[1] == 95.2 and of(shown, 'trmml', 'of new-set') == ('–', None)   # the paper's own file counts
    assert shown.rows['trmml']['cells']['table1'][0] == 'not run' and shown.rows['trmml']['cells']['G'][0] == '–'   # no tables there


def test_what_methods_learn_from(shown):
    said = {m: r['data-supervision'] for m, r in shown.rows.items()}
    assert {said[m] for m in ('trmml', 'dualcoop', 'coop', 'scpnet', 'sst-frozen', 'splc')} == {'labels only'}
    assert {said[m] for m in ('taidpt', 'taiadapter')} == {'captions only'} and said['taidpt+trmml'] == 'labels + captions'
    assert {m for m in said if said[m] == 'none'} == {'zeroshot', 'zeroshot-dense', 'zeroshot-sum', 'sparc'}
    assert {'trmml-moved', 'trmml-ceiling'} <= {m for m in said if said[m] == 'complete labels'}
    kinds = {m: r['data-kind'] for m, r in shown.rows.items()}
    assert kinds['sst'] == 'ImageNet encoder, trained' and kinds['scpnet-frozen'] == kinds['trmml'] == 'frozen CLIP'


def test_the_stored_page_is_that_of_today():
    cells = [c for c in nbformat.read(ROOT/'nbs'/'studies'/'leaderboard.ipynb', 4).cells if c.cell_type == 'code']
    [stored] = [o.data['text/html'] for c in cells for o in c.outputs if 'trmml-board' in o.get('data', {}).get('text/html', '')]
    mine = lb.page(*lb.board(LIBRARY, out=ROOT/'no-runs'))
    assert stored == mine, 'results/ or the registry say something else today: run nbs/studies/leaderboard.ipynb'


# ---- a method of one's own

@pytest.fixture
def own():
    "The method of README, registered as it says."
    lines = re.search(r'```python\n(.*?)```', (ROOT/'README.md').read_text(encoding='utf-8').split('## Add a method')[1], re.S)[1]
    space = {}
    exec(lines, space)
    yield 'linear-head'
    del METHODS['linear-head'], TITLES['linear-head']


@pytest.fixture
def few(tmp_path):
    "A few drawings in a folder that is called doodles, so that runs have the names of those on the whole set."
    return str(Path(parameters.small('doodles', tmp_path, 24, 12)).rename(tmp_path/'doodles'))


@pytest.mark.filterwarnings('ignore:.*never positive')   # few drawings
def test_a_method_of_ones_own_ends_in_a_row(own, few, tmp_path):
    where = dict(dataset=few, out=tmp_path, root=tmp_path)
    empty = Read(lb.page(*lb.board(**where)))
    assert set(empty.rows) == set(METHODS)
    assert empty.rows[own]['data-supervision'] == 'labels only' and empty.rows[own]['cells']['table1'] == ('not run', None)
    made = runs.perform(runs.Run(few, own, known=.5), tmp_path, tmp_path)
    mine = Read(lb.page(*lb.board([own, 'trmml'], **where)))
    torch.rand(3)   # the generator is elsewhere, and stays there
    before = torch.get_rng_state()
    assert runs.perform(runs.Run(few, own, known=.5), tmp_path, tmp_path/'again')['mAP'] == made['mAP']
    assert (torch.get_rng_state() == before).all()
    assert mine.rows[own]['cells']['table1'] == (f"{100*made['mAP']:.1f} (1) at 50 % alone", None)   # no average to rank by
    grid = runs.grid(few, [own], lb.RATIOS, lb.SEEDS)
    every = runs.perform_all(grid, tmp_path, tmp_path, n_jobs=1, progress=False)
    shown = Read(lb.page(*lb.board([own, 'trmml'], **where)))
    text, value = of(shown, own, 'table1')
    assert value == pytest.approx(100*sum(r['mAP'] for r in every)/len(every), abs=1e-3) and text.endswith('(3)') and '±' in text
    assert of(shown, 'trmml', 'table1')[1] == pd.read_csv(STORED/'table1-doodles.csv').set_index('method').avg_mean['trmml']
    assert shown.rows[own]['cells']['table2'][0] == 'not run' and shown.rows[own]['cells']['venue'][0] == '–'


def test_what_reads_no_dense_features_needs_no_projections():
    pooled, dense = (lb.cost_of(m, 'doodle-clip', 256, 20)['G'] for m in ('zeroshot', 'zeroshot-dense'))
    assert pooled < dense and lb.cost_of('coop', 'doodle-clip', 256, 20)['G'] == pooled


def test_its_costs_are_counted(own):
    made = lb.cost_of(own, 'doodle-clip', 64, 5)
    assert made['learnable'] == round((128*5 + 5)/2**20, 2) and made['total'] > made['learnable']


def test_names_are_escaped():
    class Own(Method):
        def encode_text(self): ...
        def loss(self, x, labels, batch=None): ...
        def scores(self, x): ...
    register('<b>"x"', Own, '<script>alert(1)</script>')
    try: page = lb.page(*lb.board(['<b>"x"', 'trmml'], out='no-runs'))
    finally: del METHODS['<b>"x"'], TITLES['<b>"x"']
    shown = Read(page)
    assert '<script>alert' not in page and shown.tags.count('script') == 1 and shown.tags.count('b') == 0
    assert shown.rows['<b>"x"']['cells']['method'][0] == '<script>alert(1)</script>'


# ---- in a browser

def visible(tab): return tab.eval_on_selector_all('.trmml-board tbody tr', "rows => rows.filter(r => r.offsetParent).map(r => r.dataset.method)")


@pytest.fixture
def tab(browser, page, tmp_path):   # noqa: F811
    (tmp_path/'a.html').write_text(f'<!doctype html><meta charset="utf-8"><body>{page}', encoding='utf-8')
    tab = browser.new_page()
    errors = []
    tab.on('pageerror', lambda e: errors.append(e))
    tab.goto((tmp_path/'a.html').as_uri())
    yield tab
    assert not errors
    tab.close()


def test_filters(tab, shown):
    assert visible(tab) == [*shown.rows] and tab.inner_text('.trmml-tools output') == f'{len(LIBRARY)} of {len(LIBRARY)} methods'
    tick = lambda value: tab.click(f'.trmml-tools input[value="{value}"]')   # noqa: E731
    tick('labels only')
    assert visible(tab) == [m for m, r in shown.rows.items() if r['data-supervision'] != 'labels only']
    tick('ensemble')
    left = [m for m, r in shown.rows.items() if r['data-supervision'] != 'labels only' and r['data-kind'] != 'ensemble']
    assert visible(tab) == left and 'taidpt' in left
    tick('labels only'); tick('ensemble')
    tab.fill('.trmml-tools input[type=search]', 'DualCoOp NeurIPS')
    assert {'dualcoop', 'dualcoop-reproduced'} <= {*visible(tab)} and 'trmml' not in visible(tab)
    tab.fill('.trmml-tools input[type=search]', 'no such method')
    assert visible(tab) == [] and tab.inner_text('.trmml-tools output').startswith('0 of ')


def test_headers_sort_with_blanks_last(tab, shown):
    press = lambda column: tab.click(f'.trmml-board th[data-col="{column}"] button')   # noqa: E731
    value = lambda m, c: of(shown, m, c)[1]   # noqa: E731
    for column in 'of coco2014', 'learnable', 'table1':
        there = sorted((v for m in shown.rows if (v := value(m, column)) is not None), reverse=True)
        press(column)
        assert [value(m, column) for m in visible(tab)] == there + [None]*(len(LIBRARY) - len(there)), column
        assert tab.get_attribute(f'.trmml-board th[data-col="{column}"]', 'aria-sort') == 'descending'
        press(column)
        assert [value(m, column) for m in visible(tab)] == there[::-1] + [None]*(len(LIBRARY) - len(there)), column
    press('method')
    names = [shown.rows[m]['cells']['method'][0].lower() for m in visible(tab)]
    assert names[0].startswith('coop') and tab.locator('.trmml-board th[aria-sort]').count() == 1


def test_without_scripts_a_plain_table_remains(browser, page, shown, tmp_path):   # noqa: F811
    (tmp_path/'a.html').write_text(f'<!doctype html><meta charset="utf-8"><body>{page}', encoding='utf-8')
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((tmp_path/'a.html').as_uri())
    assert tab.locator('.trmml-board tbody tr').count() == len(LIBRARY) and tab.locator('.trmml-tools').count() == 0
    assert 'TRM-ML' in tab.inner_text('.trmml-board') and tab.locator('.trmml-board button').count() == 0
    context.close()
