"""Known data sets from small complete copies in their published layouts (tests/published_layouts.py): which images and positives each protocol reads, and every row of Tables 1
and 2 on them for one epoch, end to end through papermill.

Always: what is read, and Table 2 on VOC 2012 (30 runs). With TRMML_SLOW: Table 1 on three and Table 2 on four data sets, and a few rows with encoders of the published size.
Encoders are small (a CLIP ResNet of one block a stage and a ResNet of 256 channels, random weights, pictures of 64 pixels); everything else is the published recipe."""
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest

import published_layouts as layouts
from published_layouts import TEST, TRAIN, numbers
from trmml import runs
from trmml.data import load, policy, published
from trmml.labels import single_positive, validation_split
from trmml.methods import find
from trmml.runs.perform import counts

SPLITS = 'train', 'test'
PROTOCOLS = 'partial', 'largeloss', 'splc'
ORIGINAL = dict(published.LISTS)   # before any test changed it


@pytest.fixture(scope='module')
def copies(tmp_path_factory):
    "All six data sets under one root, and what was written."
    root = tmp_path_factory.mktemp('data')
    return root, {name: build(root) for name, build in layouts.BUILDERS.items()}


@pytest.fixture
def lists(copies, monkeypatch):
    "The copies, whose lists count as the published ones."
    monkeypatch.setattr(published, 'LISTS', published.LISTS | layouts.hashes(copies[0]))
    return copies


def read(copies, name, protocol):
    return [load(name, s, copies[0], **policy(name, protocol)) for s in SPLITS]


def stems(ds): return [Path(p).stem for p in ds.paths]
def positives(labels): return [numbers(y == 1) for y in labels]


# ---- which images and positives a protocol reads, to train on and to be scored on

def test_voc2007_reads_all_images_and_difficult_objects_as_negatives(lists):
    for ds, part in zip(read(lists, 'voc2007', 'partial'), (lists[1]['voc2007'][s] for s in SPLITS)):
        assert [Path(p).name for p in ds.paths] == part.names and positives(ds.labels) == [numbers(y) for y in part.labels]
        assert (ds.labels != 0).all() and part.hard.any() and ds.boxes.difficult.any()


def test_voc2012_reads_difficult_objects_as_each_setup_does(lists):
    parts = lists[1]['voc2012']
    for s, ours, ll, splc in zip(SPLITS, *(read(lists, 'voc2012', p) for p in PROTOCOLS)):
        easy, hard = parts[s].labels, parts[s].hard
        assert positives(splc.labels) == [numbers(y) for y in easy | hard] and (easy | hard).sum() > easy.sum()
        assert positives(ours.labels) == [numbers(y) for y in easy] and len(ours) == len(splc) == len(easy)
        assert positives(ll.labels) == [numbers(y) for y in easy if y.any()] and len(ll) == len(easy) - 1      # one shows difficult objects alone
    # SPLC's setup is scored on exactly what its authors' list says
    names, said = published.read_list(published.list_file('scpnet/voc_val.txt', lists[0]), 20)
    assert names == [Path(p).name for p in splc.paths] and (said == (splc.labels == 1)).all()


def test_coco_reads_annotated_images_and_crowds_in_the_order_of_each_setup(lists):
    made = lists[1]['coco2014']
    for s, ours, ll, splc in zip(SPLITS, *(read(lists, 'coco2014', p) for p in PROTOCOLS)):
        part, seen = made[s], made['seen'][s]
        assert len(part.names) == len(seen) + 2 and part.hard.any()                               # two without annotation, a crowd
        both = [numbers(y) for y in (part.labels | part.hard)]
        by_text = sorted(seen, key=lambda i: str(int(part.names[i].split('_')[-1][:-4])))
        for ds, order in ((ours, seen), (splc, seen), (ll, by_text)):
            assert [Path(p).name for p in ds.paths] == [part.names[i] for i in order] and positives(ds.labels) == [both[i] for i in order]
        assert by_text != seen != sorted(seen)


def test_largeloss_draws_and_cuts_in_the_order_of_ids_as_text(lists):
    "The order decides which positive is known and which fifth is held out."
    run = runs.Run('coco2014', 'zeroshot', protocol='largeloss', seed=0)
    ll, other = (load('coco2014', 'train', lists[0], order=o) for o in ('string', 'annotation'))
    ds = runs.load_split(run, 'train', lists[0])
    def drawn(d):
        kept, rows = single_positive(d.labels, 1200, 'role'), validation_split(len(d))[0]
        return {stems(d)[i]: numbers(kept[i] == 1) for i in rows}
    known, rows = runs.observed(run, ds.labels, ds, lists[0]), runs.training_rows(run, len(ds))
    assert {stems(ds)[i]: numbers(known[i] == 1) for i in rows} == drawn(ll) != drawn(other)
    assert len(rows) == round(.8*TRAIN)


def test_nuswide_is_another_data_set_in_each_setup(lists):
    made = lists[1]['nuswide']
    for s, *found in zip(SPLITS, *(read(lists, 'nuswide', p) for p in PROTOCOLS)):
        for ds, setup in zip(found, ('official', 'largeloss', 'splc')):
            assert ['/'.join(Path(p).parts[-2:]) for p in ds.paths] == made[setup][s].names
            assert positives(ds.labels) == [numbers(y) for y in made[setup][s].labels]
        assert len({tuple(sorted(ds.paths)) for ds in found}) == 3
        if s == 'train': assert [d.card['images without positives'] for d in found] == [1, 0, 0]


def test_cub200_reads_all_answers(lists):
    for protocol in PROTOCOLS:
        for ds, part in zip(read(lists, 'cub200', protocol), (lists[1]['cub200'][s] for s in SPLITS)):
            assert ['/'.join(Path(p).parts[-2:]) for p in ds.paths] == part.names
            assert positives(ds.labels) == [numbers(y) for y in part.labels] and (ds.labels != 0).all()


@pytest.mark.parametrize('source', ['sarb', 'ssgrl', None])
def test_vg200_reads_the_lists_that_are_there_else_derives_them(tmp_path, source):
    made = layouts.vg(tmp_path, source)
    train, test = read((tmp_path,), 'vg200', 'partial')
    assert (len(train), len(test), len(test.classes)) == (TRAIN, TEST, 200) and f'vg200-{source or "derived"}' in train.variant
    assert not set(train.paths) & set(test.paths) and {Path(p).parent.name for p in train.paths} == {'VG_100K', 'VG_100K_2'}
    if source:
        for ds, s in ((train, 'train'), (test, 'test')):
            assert [Path(p).name for p in ds.paths] == made[s].names and positives(ds.labels) == [numbers(y) for y in made[s].labels]
        assert (np.diff((train.labels == 1).sum(0) + (test.labels == 1).sum(0)) <= 0).all()
    else: assert set(train.classes) <= set(made['things'])


@pytest.mark.parametrize('name, list_name', [('voc2012', 'scpnet/voc_train.txt'), ('coco2014', 'splc/coco_train_singlelabel.txt'),
                                             ('nuswide', 'splc/nus_train_singlelabel.txt'), ('cub200', 'scpnet/cub_train.txt')])
def test_seed_0_of_the_splc_setup_is_the_published_list_and_other_seeds_draw(lists, name, list_name):
    seeds = [runs.Run(name, 'zeroshot', protocol='splc', seed=s) for s in (0, 1, 2)]
    ds = runs.load_split(seeds[0], 'train', lists[0])
    zero, one, two = (runs.observed(r, ds.labels, ds, lists[0]) for r in seeds)
    said = dict(line.rsplit(',', 1) for line in (lists[0]/'labels'/list_name).read_text().splitlines())
    ids = {k.split('_')[1]: v for k, v in said.items()} if name == 'nuswide' else said        # SPLC's photos of NUS-WIDE have names of their own
    for path, y in zip(ds.paths, zero):
        key = Path(path).stem.split('_')[1] if name == 'nuswide' else next(k for k in ids if path.endswith(f'/{k}'))
        assert numbers(y == 1) == [int(ids[key])]
    for known in (zero, one, two):
        assert set(np.unique(known)) == {0, 1} and ((known == 1).sum(1) == 1).all() and (ds.labels[known == 1] == 1).all()
    assert (one != two).any() and (zero != one).any()
    assert runs.training_rows(seeds[0], len(ds)) is None                                       # all of train


# ---- the same of the real ones: which reading is chosen is the one whose counts are printed

COUNTS = {   # data set, protocol: images of train and test, after what is held out
    ('voc2007', 'partial'): (5011, 4952), ('coco2014', 'partial'): (82081, 40137), ('vg200', 'partial'): (82904, 10000),
    ('voc2012', 'largeloss'): (4574, 5823), ('voc2012', 'splc'): (5717, 5823), ('coco2014', 'largeloss'): (65665, 40137), ('coco2014', 'splc'): (82081, 40137),
    ('nuswide', 'largeloss'): (120000, 60260), ('nuswide', 'splc'): (119103, 50720), ('cub200', 'largeloss'): (4795, 5794), ('cub200', 'splc'): (5994, 5794)}


@pytest.mark.parametrize('name, protocol', COUNTS)
def test_the_reading_of_a_protocol_is_the_one_with_the_published_counts(lists, name, protocol):
    train, test = (d.card['published images'] for d in read(lists, name, protocol))
    rows = runs.training_rows(runs.Run(name, 'zeroshot', protocol=protocol), train)
    assert (train if rows is None else len(rows), test) == COUNTS[name, protocol]
    if protocol == 'splc' and (line := published.SINGLE[name]['single']) in ORIGINAL: assert ORIGINAL[line][0] == train



# ---- every row of Tables 1 and 2, for one epoch, through papermill

ROOT = Path(__file__).resolve().parents[1]
SLOW = pytest.mark.skipif('TRMML_SLOW' not in os.environ, reason='half a minute each: set TRMML_SLOW')
TABLE1 = ['curriculum', 'partial-bce', 'ssgrl', 'mlgcn', 'sst', 'sarb', 'zeroshot', 'zeroshot-dense', 'coop', 'dualcoop', 'dualcoop-tai', 'dualcoop-reproduced', 'taidpt', 'taidpt+dualcoop', 'scpnet',
          'hspnet', 'taiadapter', 'taiadapter+dualcoop', 'taidpt+trmml', 'trmml']
TABLE2 = ['lsan', 'role', 'largeloss', 'hill', 'splc', 'zeroshot', 'zeroshot-dense', 'coop', 'dualcoop', 'dualcoop-tai', 'taidpt+dualcoop', 'hspnet', 'scpnet', 'taidpt+trmml', 'trmml']
CASES = [('table1', 'voc2007'), ('table1', 'coco2014'), ('table1', 'vg200'), ('table2', 'voc2012'), ('table2', 'coco2014'), ('table2', 'nuswide'), ('table2', 'cub200')]


def execute(table, name, folder, monkeypatch, small=True, **parameters):
    "The notebook of a table on a copy of a data set; the results of all its runs."
    root, out = folder/'data', folder/'out'
    root.mkdir()
    layouts.BUILDERS[name](root)
    for k, v in layouts.patched(folder, root, small).items(): monkeypatch.setenv(k, v)
    monkeypatch.setattr(published, 'LISTS', published.LISTS | layouts.hashes(root))
    asked = dict(dataset=name, weights='', image_size=64, seeds=[0], epochs=1, captions=str(layouts.captions(root)), data_root=str(root), out=str(out), n_jobs=2) | parameters
    if table == 'table1': asked |= dict(ratios=[.5])
    papermill.execute_notebook(ROOT/'nbs'/f'{table}.ipynb', folder/'done.ipynb', asked, progress_bar=False, log_level='WARNING')
    return [json.loads(p.read_text()) for p in (out/'runs').glob('*.json')]


def as_run(r): return runs.Run(**r['run'])


def means_of(folder, table, name):
    "What the written table says, in percent: a row for each method that was measured, a column for each setup or ratio and one for their average."
    [file] = [p for p in (folder/'out'/'tables').glob(f'{table}-{name}*.csv') if not p.stem.endswith('-runs')]
    return pd.read_csv(file, index_col='method').filter(like='_mean')


def check_inputs_of(r, root, name, protocol):
    "The result of a run says that it read what its protocol reads, counted here once more."
    train, test = (load(name, s, root, **policy(name, protocol)) for s in SPLITS)
    run = runs.Run(name, 'trmml', .5, protocol=protocol)
    kept = runs.training_rows(run, len(train))
    kept = np.arange(len(train)) if kept is None else kept
    assert r['policy']['test'] == counts(test.labels)
    if not find(r['run']['method'])[0].reads_labels: return
    known = runs.observed(run, train.labels, train, root)
    assert r['policy']['train'] == counts(train.labels[kept]) and r['policy']['known'] == counts(known[kept])


@pytest.mark.parametrize('table, name', [pytest.param(*c, marks=() if c == ('table2', 'voc2012') else SLOW, id='-'.join(c)) for c in CASES])
def test_every_row_of_a_table_runs_on_the_published_layout(table, name, tmp_path, monkeypatch):
    rows, protocols = (TABLE1, ['partial']) if table == 'table1' else (TABLE2, ['largeloss', 'splc'])
    own = dict(captions=None) if name == 'voc2007' else {}            # there, sentences are made from class names
    done = execute(table, name, tmp_path, monkeypatch, methods=rows, **own)
    for m in rows:
        for protocol in protocols:          # what reads no labels has one run for all protocols that read the same images
            [r] = [r for r in done if r['run']['method'] == m and r['policy']['load'] == policy(name, protocol) and r['run']['protocol'] in (protocol, 'partial')
                   and not r['run']['interpolation']]          # else a member that an ensemble has on its own features
            check_inputs_of(r, tmp_path/'data', name, protocol)
            assert 0 < r['mAP'] < 1 and r['recipe'] == json.loads(json.dumps(runs.resolved(as_run(r))))
            assert all(np.isfinite(v) for row in r['log'] for v in row.values() if isinstance(v, float)) and bool(r['log']) == find(m)[0].trainable
    measured = means_of(tmp_path, table, name)
    assert set(measured.index) == set(rows) and measured.notna().all().all()
    assert measured.loc['trmml'].tolist()[:len(protocols)] == pytest.approx([100*r['mAP'] for p in protocols for r in done if (r['run']['method'], r['run']['protocol']) == ('trmml', p)], abs=1e-4)


@SLOW
def test_rows_with_encoders_of_the_published_size(tmp_path, monkeypatch):
    "CLIP's RN50 and ResNet-50 as they are in print, with random weights: SST with its head on 2,048 channels and its last stage trained, and TRM-ML."
    done = execute('table1', 'voc2007', tmp_path, monkeypatch, small=False, methods=['sst', 'trmml'], backbone='RN50', n_jobs=1)
    assert sorted((r['run']['method'], r['run']['backbone']) for r in done) == [('sst', 'resnet50'), ('trmml', 'RN50')] and all(0 < r['mAP'] < 1 for r in done)
