"""The structure of the library: who may import whom, no cycles, nothing private across packages, line widths, what git ignores."""
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'.ci'))
from structure import ORDER, cycles, imports, package_of, private_uses, upward   # noqa: E402

WIDEST = 100


def test_the_order_names_every_package():
    found = {package_of(p.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')) for p in (ROOT/'trmml').rglob('*.py')}
    assert found - {'trmml', '_modidx', '__init__'} == {p for level in ORDER for p in level}


def test_imports_point_downwards(): assert upward(ROOT) == []
def test_no_import_cycle(): assert cycles(ROOT) == []
def test_nothing_private_is_used_across_packages(): assert private_uses(ROOT) == []


@pytest.mark.parametrize('line, wrong', [
    ('from trmml.report import tables', 'trmml.data.coco imports trmml.report'),
    ('    import trmml.photos.estimator', 'trmml.data.coco imports trmml.photos'),
    ("x = 'trmml.methods.coop:CoOp'", 'trmml.data.coco imports trmml.methods'),
    ('from ..clip import load', None), ('from .voc import read', None)])
def test_the_contract_can_fail(tmp_path, line, wrong):
    for name in ('data/__init__', 'data/coco', 'data/voc', 'clip/__init__', 'report/__init__', 'report/tables', 'photos/__init__',
                 'photos/estimator', 'methods/__init__', 'methods/coop', '__init__'):
        path = tmp_path/'trmml'/f'{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('')
    (tmp_path/'trmml'/'data'/'coco.py').write_text(('def f():\n' if line.startswith(' ') else '') + line + '\n')
    found = upward(tmp_path)
    assert (found == []) if wrong is None else (len(found) == 1 and wrong in found[0])


def test_a_cycle_is_found(tmp_path):
    (tmp_path/'trmml').mkdir()
    for a, b in ('ab', 'bc', 'ca'): (tmp_path/'trmml'/f'{a}.py').write_text(f'from .{b} import x\n')
    assert cycles(tmp_path) == [['trmml.a', 'trmml.b', 'trmml.c']]


def code_lines():
    for path in sorted((ROOT/'trmml').rglob('*.py')):
        if path.name != '_modidx.py':
            text = path.read_text(encoding='utf-8')
            start = text.find('\n# %% ../')   # what nbdev writes above, the subtitle and __all__, is not ours to wrap
            for n, line in enumerate(text[start + 1:].splitlines(), text[:start + 1].count('\n') + 1): yield f'{path.relative_to(ROOT)}:{n}', line
    for path in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if any(p.startswith(('_', '.')) for p in path.relative_to(ROOT).parts): continue
        for k, c in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
            if c['cell_type'] == 'code':
                for line in ''.join(c['source']).splitlines(): yield f'{path.relative_to(ROOT)}[{k}]', line


def test_lines_are_short():
    wide = [f'{place}: {len(line)} characters' for place, line in code_lines() if len(line) > WIDEST]
    assert not wide, f'{len(wide)} lines over {WIDEST}: ' + '; '.join(wide[:10])


def joined(source):
    "Lines on which statements are joined by a semicolon."
    import io, tokenize
    try: tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, IndentationError): return []
    return [t.start[0] for t in tokens if t.type == tokenize.OP and t.string == ';']


def test_no_statements_are_joined():
    found = []
    for path in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if any(p.startswith(('_', '.')) for p in path.relative_to(ROOT).parts): continue
        for k, c in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
            s = ''.join(c['source'])
            if c['cell_type'] == 'code' and not s.startswith('#| hide') and joined(s): found.append(f'{path.relative_to(ROOT)}[{k}]')
    assert not found, f'{len(found)} cells: ' + ', '.join(found[:10])


def test_git_takes_every_source():
    files = [p.relative_to(ROOT).as_posix() for d in ('trmml', 'nbs', 'tests') for p in (ROOT/d).rglob('*')
             if p.suffix in ('.py', '.ipynb', '.toml', '.typed') and not any(part.startswith(('_', '.')) and part not in ('__init__.py', '_modidx.py') for part in p.relative_to(ROOT/d).parts)]
    done = subprocess.run(['git', 'check-ignore', '--no-index', '--stdin'], input='\n'.join(files), cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128: pytest.skip('not a git repository')
    assert len(files) > 100 and done.stdout == '', done.stdout
