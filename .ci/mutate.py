"""Do the checks notice a broken line? From the root of a checkout: python .ci/mutate.py losses --limit 40 --seed 0

Breaks one place of a module at a time, in a temporary copy of the package, and runs the module's own tests on it: files
of tests/ (TESTS below), and the checks of its notebook, for which the module's names stand instead of the exported cells.
A place that no test notices has survived: read it, and add the check that is missing, or name it in EQUIVALENT with the reason.
Not every break can be noticed: 100 % is no aim in itself. Each outcome becomes a row of results/tables/mutations.csv at once, so
that an interrupted call goes on where it was; the summary is results/tables/mutations.md.

Kinds: compare (< becomes <=), arith (+ and -, * and /, a minus sign), const (numbers, True and False, words such as 'skip'), bool
(not, and, or), cond (a condition forced to True, to False), drop (a statement), kwarg (one left out), swap (two neighbouring
arguments), return (another variable, another order). Only functions and their defaults are broken; left alone: docstrings,
f-strings, text of errors and warnings, decorators, annotations, and how figures look (LOOKS).

Outcomes: killed (the tests failed), timeout (counted as killed), survived, import (the module could not be imported: no merit of
a check, so no part of the score). With nothing broken the tests must pass first. Linux only: a process that has PyTorch loaded
forks for every break.
"""
import argparse
import ast
import csv
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS, TABLE = (ROOT/'results'/'tables'/f'mutations.{end}' for end in ('csv', 'md'))
BEFORE = ROOT/'results'/'tables'/'mutations-before.csv'
COLUMNS = ['module', 'source', 'seed', 'line', 'kind', 'before', 'after', 'outcome']
WHOLE = ['tests/test_whole.py', 'tests/test_equations.py']
TESTS = {   # module or package -> tests of its own, beside its notebook
    'labels': ['tests/test_labels.py'],
    'train.losses': ['tests/test_losses.py'],
    'metrics': ['tests/test_metrics.py'],
    'regions': WHOLE, 'regions_fast': WHOLE, 'contrastive_fast': WHOLE, 'losses': WHOLE,
    'train.learner': ['tests/test_method.py', 'tests/test_checkpoints.py', *WHOLE], 'train.method': ['tests/test_method.py', *WHOLE],
    **dict.fromkeys(('train.schedules', 'train.averages', 'train.checkpoints'), ['tests/test_method.py', 'tests/test_checkpoints.py']),
    'distillation': [*WHOLE, 'tests/test_readings.py'],
    'prototypes': [*WHOLE, 'tests/test_banks.py'],
    'prototypes_fast': [*WHOLE, 'tests/test_banks.py'],
    'contrastive': [*WHOLE, 'tests/test_readings.py'],
    'model': [*WHOLE, 'tests/test_readings.py'],
    'methods': ['tests/test_parts_of_methods.py', 'tests/test_orders.py'],
    'data': ['tests/test_data.py'],
    'data.table': ['tests/test_tables.py'],
    'data.downloads': ['tests/test_downloads.py'],
    'data.fetch': ['tests/test_downloads.py'],
    'features': ['tests/test_features.py'],
    'features.views': ['tests/test_views.py'],
    'runs': ['tests/test_runs.py'],
    'photos': ['tests/test_photos_whole.py'],
    **{f'photos.{m}': [f'tests/test_{m}.py'] for m in ('blending', 'calibration', 'doubt', 'export', 'filling', 'hub', 'labelling')},
    'photos.answers': ['tests/test_answer.py'],
    'photos.figures': ['tests/test_figures_of_models.py'],
    'photos.scikit': ['tests/test_sklearn.py'],
    'photos.zero_shot': ['tests/test_zero_shot_photos.py'],
}
EQUIVALENT = {   # (module, before, after) -> why it makes no difference
    ('labels', '1 < known <= 100', '1 <= known <= 100'): '1 was taken in the line before',
    ('labels', 'np.random.RandomState(seed).random_sample(Y.shape) < known',
     'np.random.RandomState(seed).random_sample(Y.shape) <= known'): 'no number drawn is equal to a ratio',
    ('labels', "'stable'", "'stable_'"): 'NumPy reads the first letter',
    ('labels', '.12', '0.24'): 'a colour', ('labels', '.70', '1.4'): 'a colour',
    ('regions', '-2', '2'): 'an axis of four, counted from the other end',
    ('model', '-1', '1'): 'the last axis of two',
    ('model', 'normalize(v, dim=-1)', 'normalize(v)'): 'v has two axes',
    ('model', 'not (model.training and model.dropout)', 'False'): 'random numbers are put aside where none is drawn',
    ('prototypes', '-2', '2'): 'an axis counted from the other end', ('prototypes', '-1', '1'): 'the last axis of two',
    ('train.losses', '6', '7'): 'digits of a product that is rounded against 1e-17', ('train.losses', 'min(epoch, 1)', 'min(1, epoch)'): 'the same of two integers',
    ('train.schedules', '0 < top >= step', '0 < top > step'): 'both sides say the same at the top',
    ('train.averages', 'p.requires_grad', 'True'): 'the average of what does not change is what it is',
    ('train.checkpoints', 'torch.load(held, map_location=method.clip.device, weights_only=True)', 'torch.load(held, map_location=method.clip.device)'): "PyTorch's default since 2.6",
    ('train.checkpoints', 'torch.load(held, map_location=method.clip.device, weights_only=True)', 'torch.load(held, weights_only=True)'): 'on a CPU; on a GPU tests/test_cuda.py',
    ('train.learner', 'device or method.clip.device', 'device and method.clip.device'): 'on a CPU; on a GPU tests/test_cuda.py',
    ('train.learner', 'Bar(range(len(log), epochs), initial=len(log), total=epochs, mininterval=2, desc=type(meth', 'Bar(range(len(log), epochs), initial=len(log), mininterval=2, desc=type(method).__name__, '): 'how long a bar looks',
    ('train.learner', 'labels[batch.rows].to(device, non_blocking=True)', 'labels[batch.rows].to(device)'): 'time alone',
    ('metrics', 'torch.arange(N, device=s.device)', 'torch.arange(N)'): 'on a CPU; on a GPU tests/test_cuda.py',
    ('metrics', '-1', '1'): 'the last axis of two',
    ('metrics', 's.topk(min(top, s.shape[1]), dim=1)', 's.topk(min(top, s.shape[1]))'): 'the last axis of two',
    ('metrics', "F.interpolate(R[:, None], size=size, mode='bilinear', align_corners=False)",
     "F.interpolate(R[:, None], size=size, mode='bilinear')"): 'the default, said',
}
LOOKS = {'alpha', 'aspect', 'cmap', 'color', 'figsize', 'fontsize', 'ha', 'interpolation', 'label', 'labelsize', 'layout', 'lw', 'rotation', 'title', 'va', 'width'}
COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
           ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
ARITH = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
         ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}


def other(v):
    "Another constant of the same type, or None."
    if isinstance(v, bool): return not v
    if isinstance(v, int): return v + 1
    if isinstance(v, float): return v*2 if v and abs(v) < 1e300 else 1.
    return f'{v}_' if isinstance(v, str) and v.isidentifier() else None


def but(node, **fields):
    "A node with other fields."
    return type(node)(**{**vars(node), **fields})


def breaks_of_a_call(n):
    "An argument left out, two neighbouring ones swapped."
    for k in n.keywords:
        if k.arg and k.arg not in LOOKS: yield 'kwarg', but(n, keywords=[q for q in n.keywords if q is not k])
    for i, (a, b) in enumerate(zip(n.args, n.args[1:])):
        if not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred):
            yield 'swap', but(n, args=[*n.args[:i], b, a, *n.args[i + 2:]])


def breaks_of_a_return(n, names):
    "Another order, or another variable of the function."
    if isinstance(n.value, ast.Tuple) and len(n.value.elts) > 1:
        a, b, *rest = n.value.elts
        yield 'return', but(n, value=ast.Tuple([b, a, *rest], ast.Load()))
    if isinstance(n.value, ast.Name):
        v = min(names - {n.value.id}, default=None)
        yield 'return', but(n, value=ast.Name(v, ast.Load()) if v else ast.Constant(None))


def is_text(n): return any(isinstance(v, ast.JoinedStr) or isinstance(v, ast.Constant) and isinstance(v.value, str) for v in vars(n).values())


def changes_something(n):
    "Whether a statement can be dropped without leaving a name undefined."
    if isinstance(n, (ast.AugAssign, ast.Raise, ast.Assert, ast.Delete, ast.Expr)): return True
    return isinstance(n, ast.Assign) and all(
        isinstance(t, (ast.Attribute, ast.Subscript)) or isinstance(t, ast.Name)
        and any(isinstance(v, ast.Name) and v.id == t.id for v in ast.walk(n.value)) for t in n.targets)


def breaks(n, names):
    "(node to replace, kind, what to put there) for one node; `names` are those bound in its function."
    if isinstance(n, ast.Compare):
        for i, op in enumerate(n.ops): yield n, 'compare', but(n, ops=[*n.ops[:i], COMPARE[type(op)](), *n.ops[i + 1:]])
    if isinstance(n, (ast.BinOp, ast.AugAssign)) and type(n.op) in ARITH and not is_text(n): yield n, 'arith', but(n, op=ARITH[type(n.op)]())
    if isinstance(n, ast.UnaryOp): yield n, 'bool' if isinstance(n.op, ast.Not) else 'arith', n.operand
    if isinstance(n, ast.BoolOp): yield n, 'bool', but(n, op=ast.Or() if isinstance(n.op, ast.And) else ast.And())
    if isinstance(n, ast.Constant) and other(n.value) is not None: yield n, 'const', ast.Constant(other(n.value))
    if isinstance(n, ast.While): yield n.test, 'cond', ast.Constant(False)
    for test in [n.test] if isinstance(n, (ast.If, ast.IfExp)) else n.ifs if isinstance(n, ast.comprehension) else ():
        for v in (True, False): yield test, 'cond', ast.Constant(v)
    if isinstance(n, ast.Call): yield from ((n, *b) for b in breaks_of_a_call(n))
    if isinstance(n, ast.Return): yield from ((n, *b) for b in breaks_of_a_return(n, names))
    if changes_something(n): yield n, 'drop', ast.Pass()


def names_of(f):
    "Names bound in a function, but for those of comprehensions."
    bound = {a.arg for a in ast.walk(f.args) if isinstance(a, ast.arg)} - {'self', 'cls'}
    stored = {v.id for v in ast.walk(f) if isinstance(v, ast.Name) and isinstance(v.ctx, ast.Store)}
    return bound | stored - {v.id for c in ast.walk(f) if isinstance(c, ast.comprehension) for v in ast.walk(c.target) if isinstance(v, ast.Name)}


def below(n):
    "Nodes under a node in which something may be broken."
    if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return [*n.args.defaults, *filter(None, n.args.kw_defaults), *(n.body if isinstance(n.body, list) else [n.body])]
    if isinstance(n, ast.AnnAssign): return [n.value] if n.value else []
    if isinstance(n, ast.Assert): return [n.test]
    if isinstance(n, ast.Raise) or isinstance(n, ast.Call) and getattr(n.func, 'attr', getattr(n.func, 'id', '')) in ('warn', 'warning'): return []
    left = [*getattr(n, 'decorator_list', ()), *(k for k in getattr(n, 'keywords', ()) if getattr(k, 'arg', '') in LOOKS)]
    return [c for c in ast.iter_child_nodes(n) if c not in left]


def sites(n, names=None):
    "All breaks under a node; `names` is None outside functions, where nothing is broken."
    if isinstance(n, ast.JoinedStr) or isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant): return
    is_function = isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    inside = names_of(n) if is_function else names
    under = below(n)
    if names is not None and not (isinstance(n, ast.Call) and not under): yield from breaks(n, names)
    for c in under: yield from sites(c, inside)


def splice(source, node, new):
    "(the source with one node replaced, what was there, what is there); positions of ast count bytes."
    data = source.encode()
    starts = [0]
    for line in data.splitlines(True): starts.append(starts[-1] + len(line))
    a, b = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
    text = ast.unparse(ast.fix_missing_locations(new))
    put = f'({text})' if isinstance(new, ast.expr) else text
    return (data[:a] + put.encode() + data[b:]).decode(), data[a:b].decode(), text


def places(source):
    "(line, kind, broken source, before, after) of every break that Python can read and that changes something."
    whole = ast.dump(ast.parse(source))
    for node, kind, new in sites(ast.parse(source)):
        broken, before, after = splice(source, node, new)
        try:
            if ast.dump(ast.parse(broken)) != whole: yield node.lineno, kind, broken, ' '.join(before.split())[:90], ' '.join(after.split())[:90]
        except SyntaxError: continue


def run_checks(notebook, module):
    "Run the cells of a notebook that are not exported, with the names of the module."
    import importlib
    import json

    import matplotlib
    matplotlib.use('agg')
    names = dict(vars(importlib.import_module(f'trmml.{module}')), __name__='__main__', display=lambda *_: None)
    os.chdir(ROOT/Path(notebook).parent)
    for c in json.loads((ROOT/notebook).read_text(encoding='utf-8'))['cells']:
        code = ''.join(c['source'])
        if c['cell_type'] == 'code' and not re.search(r'(?m)^#\| ?(export|default_exp|eval: ?false)|nbdev_export\(', code): exec(compile(code, notebook, 'exec'), names)


def child(folder, module, tests, log):
    "Run tests on the copy in `folder`, in this process, and end it."
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for fd in 1, 2: os.dup2(out, fd)
    sys.dont_write_bytecode, status = True, 99
    sys.path.insert(0, str(folder))
    os.environ['PYTHONPATH'] = str(folder)
    try:
        notebooks = [t for t in tests if t.endswith('.ipynb')]   # first: most are quicker
        files = [t for t in tests if t not in notebooks]
        for t in notebooks: run_checks(t, module)
        os.chdir(ROOT)
        import pytest
        status = int(pytest.main(['-x', '-q', '-n', '0', '-p', 'no:cacheprovider', *files])) if files else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def run(folder, module, tests, limit):
    "(exit status or None for a timeout, seconds, output)"
    log, start = folder/'log', time.time()
    pid = os.fork()
    if not pid: child(folder, module, tests, log)
    while time.time() - start < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status), time.time() - start, log.read_text(errors='replace')
        time.sleep(.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None, time.time() - start, log.read_text(errors='replace')


def outcome(status, said, imported):
    "What became of a break."
    if status is None: return 'timeout'
    if status == 0: return 'survived'
    return 'killed' if imported and 'ERROR collecting' not in said else 'import'


def rows():
    "What is known so far."
    return list(csv.DictReader(ROWS.open(newline='', encoding='utf-8'))) if ROWS.exists() else []


def keep(row):
    "Add a row to the file."
    new = not ROWS.exists()
    with ROWS.open('a', newline='', encoding='utf-8') as f:
        out = csv.DictWriter(f, COLUMNS, lineterminator='\n')
        if new: out.writeheader()
        out.writerow(row)


def score(of):
    "(noticed, of how many), breaks that make no difference left out."
    makes_none = [r for r in of if r['outcome'] == 'survived' and (r['module'], r['before'], r['after']) in EQUIVALENT]
    counted = [r for r in of if r['outcome'] != 'import' and r not in makes_none]
    return sum(r['outcome'] != 'survived' for r in counted), len(counted)


def before():
    "Module -> what was noticed at an earlier commit, in words."
    if not BEFORE.exists(): return {}
    return {r['module']: f"{r['noticed']} of {r['places']} at {r['commit']} ({r['tests']})" for r in csv.DictReader(BEFORE.open(newline='', encoding='utf-8'))}


def summary():
    "A line per module and seed, then what survived."
    found, groups, earlier = rows(), {}, before()
    for r in found: groups.setdefault((r['module'], r['seed']), []).append(r)
    lines = ['| module | seed | broken places | noticed | percent | before |', '|---|---:|---:|---:|---:|---|']
    for r in found:
        if '.' in r['module']: groups.setdefault((r['module'].split('.')[0] + ', together', r['seed']), []).append(r)
    for (module, seed), of in sorted(groups.items()):
        good, n = score(of)
        lines.append(f'| `{module}` | {seed} | {n} | {good} | {100*good/max(n, 1):.0f} | {earlier.get(module, "")} |')
    lines += ['', 'Not noticed:', '']
    for r in found:
        if r['outcome'] != 'survived': continue
        why = EQUIVALENT.get((r['module'], r['before'], r['after']))
        lines.append(f"- `{r['module']}` line {r['line']}, {r['kind']}: `{r['before']}` -> `{r['after']}`" + (f' (makes no difference: {why})' if why else ''))
    return '\n'.join(lines) + '\n'


def file_of(module): return (ROOT/'trmml'/Path(*module.split('.'))).with_suffix('.py')


def tests_of(module):
    "The notebook that makes a module, and the tests named for it or for its package."
    made = re.search(r'File to edit: (\S+\.ipynb)', file_of(module).read_text(encoding='utf-8'))
    notebook = [str((file_of(module).parent/made[1]).resolve().relative_to(ROOT))] if made else []
    return [*notebook, *TESTS.get(module, TESTS.get(module.split('.')[0], []))]


def modules_of(name):
    "A module itself; the modules of a package, but for its __init__."
    if file_of(name).is_file(): return [name]
    return sorted(f'{name}.{p.stem}' for p in (ROOT/'trmml'/name).glob('*.py') if p.stem != '__init__')


def draw(name, limit, seed):
    "Module -> (source, places): as many as `limit` of a module, or of all modules of a package together; 0: all."
    sources = {m: file_of(m).read_text(encoding='utf-8') for m in modules_of(name)}
    todo = [(m, t) for m, source in sources.items() for t in places(source)]
    drawn = random.Random(seed).sample(todo, min(limit or len(todo), len(todo)))
    return {m: (source, sorted((t for n, t in drawn if n == m), key=lambda t: t[0])) for m, source in sources.items()}


def tried(module, source, drawn, tests, seed, limit):
    "Break one place after the other; a row for each."
    digest = str(hash_of(source))
    done = {(r['line'], r['kind'], r['before'], r['after']) for r in rows() if (r['module'], r['source'], r['seed']) == (module, digest, str(seed))}
    with tempfile.TemporaryDirectory(prefix='mutate-') as tmp:
        shutil.copytree(ROOT/'trmml', Path(tmp, 'trmml'), ignore=shutil.ignore_patterns('__pycache__'))
        target, mark = Path(tmp, 'trmml', *module.split('.')).with_suffix('.py'), Path(tmp, 'imported')

        def go(text, seconds):
            "Run on a broken module, whose last line leaves a mark: it was imported to its end."
            mark.unlink(missing_ok=True)
            target.write_text(f'{text}\nopen({str(mark)!r}, "a").close()\n', encoding='utf-8')
            return *run(Path(tmp), module, tests, seconds), mark.exists()

        status, base, said, imported = go(source, 3600)
        if status != 0 or not imported: sys.exit(f'{said[-1500:]}\nwith nothing broken the tests end with {status}, {"" if imported else "and do not import the module: "}mend that first')
        print(f'{module}: {len(drawn)} places, {base:.1f} s each unbroken', flush=True)
        for line, kind, broken, before, after in drawn:
            if (str(line), kind, before, after) in done: continue
            status, took, said, imported = go(broken, limit or max(60, 5*base))
            what = outcome(status, said, imported)
            keep(dict(module=module, source=digest, seed=seed, line=line, kind=kind, before=before, after=after, outcome=what))
            print(f'{module}:{line:<4} {kind:8} {what:9} {took:5.1f} s  {before[:60]}  ->  {after[:60]}', flush=True)


def hash_of(source):
    "Eight hexadecimal digits of a module's source."
    import hashlib
    return hashlib.sha256(source.encode()).hexdigest()[:8]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('modules', nargs='*', help='of trmml, dotted, or a package: its modules together; none: the summary alone')
    p.add_argument('--tests', nargs='+', help='instead of those that TESTS names')
    p.add_argument('--limit', type=int, default=40, help='places drawn at random; 0: all')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--timeout', type=float, help='seconds for one run; default: five times the unbroken one, 60 at least')
    a = p.parse_args()
    unknown = [m for m in a.modules if not modules_of(m)]
    if unknown: p.error(f'trmml has no module {", ".join(unknown)}')
    os.chdir(ROOT)
    os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
    sys.path[:] = [x for x in sys.path if Path(x or '.').resolve() not in (ROOT, ROOT/'.ci')]   # the copy alone
    if a.modules: import numpy, open_clip, pandas, pytest, torch   # noqa: E401, F401   loaded once, for all runs
    assert not any(m.split('.')[0] == 'trmml' for m in sys.modules)
    for name in a.modules:
        for module, (source, drawn) in draw(name, a.limit, a.seed).items():
            if drawn: tried(module, source, drawn, a.tests or tests_of(module), a.seed, a.timeout)
    if rows(): TABLE.write_text(summary(), encoding='utf-8')
    print(summary())


if __name__ == '__main__': main()
