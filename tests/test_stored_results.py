"""The result on the first screen of a companion notebook: it is there, it is what the stored files say today, and its sentences are right."""
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from trmml.report import results as stored
from trmml.report import since

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ['asking', 'best_epoch', 'calibration', 'complete', 'doubt', 'formats', 'losses', 'pooling_order', 'predict_speed', 'since', 'small_tables', 'teachers']
SHOWN = [f'table{k}' for k in range(1, 7)] + ['figure4'] + [f'studies/{n}' for n in STUDIES]


@pytest.mark.parametrize('name', SHOWN)
def test_the_first_output_is_the_stored_result_of_today(name):
    cells = [c for c in nbformat.read(ROOT/'nbs'/f'{name}.ipynb', 4).cells if c.cell_type == 'code']
    first = next(c for c in cells if c.outputs)
    assert first is cells[0], 'an output before the result, or none'
    space = {}
    *before, last = first.source.splitlines()
    exec('\n'.join(before), space)
    said = eval(last, space).data
    assert 'Stored result' in said and ''.join(first.outputs[0].data['text/markdown']) == said, 'the files say something else today: run the notebook'


@pytest.mark.parametrize('name', ['table1', 'table2'])
def test_later_methods_are_shown_as_they_are_stored(name):
    [cell] = [c for c in nbformat.read(ROOT/'nbs'/f'{name}.ipynb', 4).cells if c.source == f"Markdown(since.section('{name}', name))"]
    assert ''.join(cell.outputs[0].data['text/markdown']) == since.section(name), 'the files say something else today: python .ci/later_rows.py'


def test_the_first_lines_of_a_reading(tmp_path):
    (tmp_path/'a-reading.md').write_text('- one\n\ntwo\n- three\n')
    assert stored.reading('a', 2, tmp_path) == '- one\n- two\n- and 1 more, below' and stored.reading('a', 3, tmp_path) == '- one\n- two\n- three'
    with pytest.raises(FileNotFoundError): stored.reading('b', 2, tmp_path)


def test_wrong_label_files_are_counted_too(tmp_path):
    pd.DataFrame(dict(file=list('abcd'), verdict=['right', 'right', 'told', 'WRONG'])).to_csv(tmp_path/'formats.csv', index=False)
    assert stored.label_files(tmp_path) == '4 files: 2 read right, 1 after being told one option, 0 refused with a sentence, 1 wrong'


def test_sentences_take_their_own_rows(tmp_path):
    rows = [dict(backbone=b, way=w, **{'times as fast': t}) for b, w, t in (('x', 'by hand', 1.), ('x', 'predict', 3.25), ('y', 'predict', 2.), ('y', 'ONNX', 9.))]
    pd.DataFrame(rows).to_csv(tmp_path/'predict_speed.csv', index=False)
    assert stored.predict_speed(tmp_path) == 'as fast as a loop by hand: 3.2 times with x, 2.0 times with y'
    names = ['120 photos', '300 photos', '600 photos']
    rows = [dict(kind=k, order=o, **{n: f'{o[0]}{k[0]}{n[0]}' for n in names}) for k in ('flipped', 'overlooked') for o in ('doubt, contradicted', 'cleanlab, self-confidence')]
    pd.DataFrame(rows).to_csv(tmp_path/'doubt-doodles.csv', index=False)
    assert 'at 300 photos df3 % (cleanlab, self-confidence: cf3)' in stored.wrong_labels(tmp_path)
