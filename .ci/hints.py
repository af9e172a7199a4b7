"""Type hints and docments counted, for what users call and for the rest: python .ci/hints.py [-v]

What users call: everything public in labels, metrics and viz; what data, runs and train hand out; the estimator;
the console; Method and Store; load, dense, pooled and text of clip; create, register and find of methods.
"""
import ast
import io
import sys
import tokenize
from pathlib import Path

from structure import absolute, modules, package_of

ROOT = Path(__file__).resolve().parents[1]
WHOLE = {'labels', 'metrics', 'viz', 'cli'}                 # packages of which every public name counts
HANDED_OUT = {'data', 'runs', 'train', 'photos'}            # packages of which the names that __init__ imports count
CHOSEN = {'clip': {'load', 'dense', 'pooled', 'text'}, 'methods': {'create', 'register', 'find'},
          'features': {'extract', 'Store'}, 'model': {'TRMML'}}


def comments(source):
    "Numbers of the lines that carry a comment."
    return {t.start[0] for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT}


def functions(tree):
    "(qualified name, node, class or None) of every public function and method."
    for n in tree.body:
        if isinstance(n, ast.FunctionDef) and not n.name.startswith('_'): yield n.name, n, None
        elif isinstance(n, ast.ClassDef) and not n.name.startswith('_'):
            for m in n.body:
                if isinstance(m, ast.FunctionDef) and (not m.name.startswith('_') or m.name == '__init__'):
                    yield f'{n.name}.{m.name}', m, n


def places(node, method):
    "(what, hinted, commented) of every argument and of the return value."
    def of(noted):
        a = node.args
        args = [*a.posonlyargs, *a.args, *a.kwonlyargs]
        if method and args and not any(isinstance(d, ast.Name) and d.id == 'staticmethod' for d in node.decorator_list): args = args[1:]
        for x in args + [y for y in (a.vararg, a.kwarg) if y]:
            told = x.lineno in noted or node.lineno == x.lineno and (node.lineno in noted or x.annotation is not None) or helped(x.annotation)
            yield x.arg, x.annotation is not None, told
        one_line = node.body[0].lineno == node.lineno
        first = node.body[0].lineno if node.body else node.lineno
        returns = range(max([node.lineno] + [x.lineno for x in args]), first + 1)
        if node.name != '__init__' and not any(isinstance(d, ast.Name) and d.id == 'property' for d in node.decorator_list):
            yield 'return', node.returns is not None, node.returns is not None and (one_line or any(l in noted for l in returns) or plain(node.returns))
    return of


def helped(note):
    "Whether a hint carries the help of the console: Annotated[..., Option(help=...)], or a name for one, such as `Device`."
    return note is not None and ('help=' in ast.unparse(note) or isinstance(note, ast.Name) and note.id in HELPED)


HELPED = {n.targets[0].id for n in ast.parse((ROOT/'trmml'/'cli.py').read_text(encoding='utf-8')).body
          if isinstance(n, ast.Assign) and 'help=' in ast.unparse(n.value) or isinstance(n, ast.Assign) and 'Annotated' in ast.unparse(n.value)}


def plain(note):
    "Whether a return hint says all there is: None, bool, str, a class of the project."
    return isinstance(note, ast.Constant) and note.value is None or isinstance(note, ast.Name)


def users(root):
    "module -> names that users call; None: all."
    known, out = modules(root), {}
    for m, p in known.items():
        pack = package_of(m)
        if pack in WHOLE: out[m] = None
        if pack in HANDED_OUT and m == f'trmml.{pack}':
            for n in ast.walk(ast.parse(p.read_text(encoding='utf-8'))):
                if isinstance(n, ast.ImportFrom):
                    there = absolute(n, m, True)
                    if out.get(there, set()) is not None: out.setdefault(there, set()).update(a.name for a in n.names)
        if pack in CHOSEN: out.setdefault(m, set()).update(CHOSEN[pack])
    return out


def count(root=ROOT):
    "{'users' | 'rest': [places, hinted, commented, missing]}."
    wanted, out = users(root), {'users': [0, 0, 0, []], 'rest': [0, 0, 0, []]}
    for m, p in modules(root).items():
        source = p.read_text(encoding='utf-8')
        noted, tree = comments(source), ast.parse(source)
        bases = {c.name: [b.id for b in c.bases if isinstance(b, ast.Name)] for c in tree.body if isinstance(c, ast.ClassDef)}
        for name, node, cls in functions(tree):
            names = wanted.get(m, set())
            mine = names is None or name.split('.')[0] in names or name.split('.')[-1] in names & {'dense', 'pooled', 'text'} or (
                cls is not None and package_of(m) == 'photos' and m.rpartition('.')[2] in ESTIMATOR)
            tally = out['users' if mine else 'rest']
            for what, hinted, noted_here in places(node, cls is not None)(noted):
                tally[0] += 1
                tally[1] += hinted
                tally[2] += noted_here
                if not (hinted and noted_here): tally[3].append(f'{m}.{name}: {what}{"" if hinted else ", no hint"}{"" if noted_here else ", no docment"}')
    return out


ESTIMATOR = {'estimator', 'fitting', 'scoring', 'filling', 'saving', 'browse'}   # modules of photos that hold the estimator's methods


def main(verbose=False):
    for who, (n, hinted, noted, missing) in count().items():
        print(f'{who}: {n} arguments and returns, {hinted} hinted ({hinted/n:.1%}), {noted} with a docment ({noted/n:.1%})')
        if verbose and who == 'users': print('\n'.join(missing))


if __name__ == '__main__': main('-v' in sys.argv)
