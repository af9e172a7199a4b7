"What is installed: requirements are what the library imports, both versions of nbdev read the same settings, texts are there."
import ast
import configparser
import json
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
PARSER = configparser.ConfigParser(delimiters=['='])
PARSER.read(ROOT/'settings.ini', encoding='utf-8')
CFG = PARSER['DEFAULT']
PROJECT = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))
LATER = {   # imported inside a function, by those who installed the extra
    'papermill': 'notebooks', 'IPython': 'notebooks', 'dask': 'cluster', 'distributed': 'cluster', 'seaborn': 'notebooks',
    'ipywidgets': 'notebooks', 'nbformat': 'notebooks', 'sklearn': 'notebooks', 'anywidget': 'label', 'traitlets': 'label', 'voila': 'label',
    'pillow_heif': 'photos', 'openpyxl': 'photos', 'pyarrow': 'parquet', 'onnx': 'export', 'onnxruntime': 'export', 'onnxscript': 'export',
    'polars': 'dev'}   # for whoever asks for its frames


ON_DEMAND = {'tabulate': '.to_markdown('}   # not imported here: what pandas asks for when the call on the right is made


def norm(name): return re.sub(r'[-_.]+', '-', re.split(r'[\s<>=!\[]', name)[0]).lower()
def requirements(key='requirements'): return {norm(r) for r in CFG[key].split()}


def imports():
    "(top-level name, module, whether it is imported with the module) of all imports of other projects."
    for path in sorted((ROOT/'trmml').rglob('*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        def later(n): return isinstance(n, (ast.FunctionDef, ast.Lambda)) or isinstance(n, ast.If) and ast.unparse(n.test) == 'TYPE_CHECKING'
        inside = {n for f in ast.walk(tree) if later(f) for n in ast.walk(f)}
        for n in ast.walk(tree):
            if isinstance(n, ast.Import): names = [a.name for a in n.names]
            elif isinstance(n, ast.ImportFrom) and not n.level: names = [n.module]
            else: continue
            for name in names:
                top = name.split('.')[0]
                if top not in sys.stdlib_module_names and top != 'trmml': yield top, path.relative_to(ROOT), n not in inside


def test_requirements_are_what_is_imported():
    owners = packages_distributions()
    found = {}
    for top, path, early in imports():
        if top in LATER and not early: continue
        found.setdefault(norm(owners.get(top, [top])[0]), set()).add(str(path))
    assert {k: sorted(v)[:3] for k, v in found.items() if k not in requirements()} == {}, 'imported but not required'
    sources = [p.read_text(encoding='utf-8') for p in (ROOT/'trmml').rglob('*.py')]
    for name, call in ON_DEMAND.items():
        if any(call in s for s in sources): found[name] = {'pandas'}
    assert requirements() - set(found) == set(), 'required but not imported'


def test_what_is_imported_later_has_an_extra():
    for top in {t for t, _, early in imports() if t in LATER and not early}: assert LATER[top] + '_requirements' in CFG


def test_extras():
    extras = {k.removesuffix('_requirements') for k in CFG if k.endswith('_requirements')}
    assert extras == {'notebooks', 'photos', 'label', 'export', 'parquet', 'cluster', 'docs', 'dev'}
    assert {'jupyterlab', 'nbdev', 'execnb', 'fastcore', 'ghapi', 'papermill', 'seaborn'} <= requirements('notebooks_requirements')
    assert not requirements() & requirements('notebooks_requirements')


def test_both_versions_of_nbdev_read_the_same():
    "nbdev 2 reads settings.ini, nbdev 3 [tool.nbdev] and [project] of pyproject.toml."
    nbdev = PROJECT['tool']['nbdev']
    for key, value in nbdev.items():
        said = CFG[key]
        assert value == (said.split() if isinstance(value, list) else said == 'True' if isinstance(value, bool) else said), key
    assert {k for k in CFG if k in ('nbs_path', 'lib_path', 'doc_path', 'branch', 'tst_flags', 'put_version_in_init', 'clear_all',
                                    'allowed_cell_metadata_keys', 'jupyter_hooks', 'cell_number')} == set(nbdev)
    assert PROJECT['project']['name'] == CFG['lib_name']
    assert PROJECT['project']['urls']['Repository'] == CFG['git_url']
    # from 'Documentation' nbdev 3 makes the host of the site and a line in every module
    assert 'Documentation' not in PROJECT['project']['urls'] and (CFG['doc_host'], CFG['doc_baseurl']) == ('', '/')


def test_metadata(monkeypatch):
    import setuptools
    said = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **settings: said.update(settings))
    runpy.run_path(str(ROOT/'setup.py'))
    assert set(said['packages']) == {'.'.join(p.parent.relative_to(ROOT).parts) for p in (ROOT/'trmml').rglob('*')
                                     if p.suffix in ('.py', '.safetensors') and '__pycache__' not in p.parts}
    assert set(said['extras_require']['notebooks']) < set(said['extras_require']['dev'])
    for package, patterns in said['package_data'].items():
        for pattern in patterns: assert list((ROOT/package.replace('.', '/')).glob(pattern)), f'{package}/{pattern}'
    links = re.findall(r'\]\(([^)\s]+)', said['long_description'])
    assert len(links) > 10 and all(re.match(r'https?://|#', l) for l in links), [l for l in links if not re.match('https?://|#', l)]
    for v in CFG['python_versions'].split(): assert f'Programming Language :: Python :: {v}' in said['classifiers']


def test_texts_are_there():
    licence = (ROOT/'LICENSE').read_text(encoding='utf-8')
    assert 'Apache License' in licence and 'Version 2.0, January 2004' in licence and 'END OF TERMS AND CONDITIONS' in licence
    cite = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    assert [a['family-names'] for a in cite['preferred-citation']['authors']] == ['Ma', 'Xie', 'Wang', 'Fu', 'Sun', 'Zhao']
    assert cite['references'][0]['doi'] == cite['preferred-citation']['doi'] == '10.1145/3664647.3680815'
    assert cite['version'] == CFG['version'] and cite['license'] == CFG['license_expression']
    assert f"## {CFG['version']}" in (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')
    guide = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    assert len(guide.splitlines()) <= 60 and 'nbdev_install_hooks' in guide and 'LICENSE-splc.txt' in guide
    listed = (ROOT/'MANIFEST.in').read_text(encoding='utf-8').split()
    for name in ('settings.ini', 'README.md', 'LICENSE', 'CITATION.cff', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md'):
        assert name in listed and (ROOT/name).exists()


def test_the_workflow_runs_ci_on_the_versions_that_are_named():
    flow = yaml.safe_load((ROOT/'.github'/'workflows'/'ci.yml').read_text(encoding='utf-8'))
    assert flow['jobs']['all']['strategy']['matrix']['python'] == CFG['python_versions'].split()
    assert any('.ci/run' in s.get('run', '') for s in flow['jobs']['all']['steps'])
    assert subprocess.run(['bash', '-n', ROOT/'.ci'/'run']).returncode == 0


def test_saving_in_jupyterlab_leaves_no_diff(tmp_path):
    "The hook of nbdev_install_hooks makes of what JupyterLab saves what is stored."
    from nbdev.clean import clean_jupyter
    for stored in (ROOT/'nbs'/'index.ipynb', ROOT/'nbs'/'paper'/'1_regions_eq1-4.ipynb'):
        text = stored.read_text(encoding='utf-8')
        nb = json.loads(text)
        nb['metadata']['kernelspec']['display_name'] = 'Python 3 (ipykernel)'
        nb['metadata']['language_info'] = dict(name='python', version='3.11.7', file_extension='.py', mimetype='text/x-python')
        for i, c in enumerate(c for c in nb['cells'] if c['cell_type'] == 'code'):
            c['execution_count'], c['metadata']['execution'] = i + 1, {'iopub.status.busy': 'now'}
            c['metadata']['collapsed'] = False
        clean_jupyter(str(stored), dict(type='notebook', content=nb))
        nbformat.write(nbformat.from_dict(nb), tmp_path/stored.name)   # as JupyterLab does
        assert (tmp_path/stored.name).read_text(encoding='utf-8') == text, stored.name
