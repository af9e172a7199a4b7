"""The structure of the library in numbers and the contract of its imports: python .ci/structure.py [root of a checkout]

Prints packages, modules, import edges, cycles, private names across packages, imports against the order, and wide lines.
All imports count, those inside functions and module paths in strings ('trmml.methods.coop:CoOp') included.
"""
import ast
import json
import re
import sys
from functools import lru_cache
from pathlib import Path

ORDER = [   # top to bottom: a module imports only from its own package and from lower ones
    {'cli'}, {'report'}, {'photos'}, {'runs'}, {'methods'}, {'model'},
    {'losses'}, {'contrastive_fast'}, {'contrastive'}, {'prototypes_fast'}, {'prototypes'}, {'distillation'},
    {'regions_fast'}, {'regions'},   # sections 3.6 to 3.2
    {'train'}, {'viz'}, {'features'}, {'data'}, {'formats'}, {'doodles'}, {'clip'}, {'metrics'}, {'labels'}, {'files'}, {'progress'}]
LEVEL = {name: i for i, level in enumerate(ORDER) for name in level}
ALLOWED = {   # imports against the order that are part of the design, each with its reason
    ('trmml', 'photos'),   # `from trmml import TRMML`, when it is asked for
}


def modules(root):
    "name -> path of every module of the package, without nbdev's index."
    root = Path(root)
    out = {}
    for p in sorted((root/'trmml').rglob('*.py')):
        if p.name == '_modidx.py': continue
        parts = p.relative_to(root).with_suffix('').parts
        out['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = p
    return out


@lru_cache(maxsize=None)
def parsed(path, changed):
    "The syntax tree of a file; `changed` is its time of change."
    return ast.parse(path.read_text(encoding='utf-8'))


def tree_of(path): return parsed(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=None)
def stored_attributes(path, changed):
    "Private attributes that a module sets."
    return frozenset(n.attr for n in ast.walk(parsed(path, changed))
                     if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and private(n.attr))


def package_of(name):
    "'trmml.data.coco' -> 'data'; 'trmml' -> 'trmml'."
    parts = name.split('.')
    return parts[1] if len(parts) > 1 else parts[0]


def absolute(node, name, is_package):
    "The module that a `from` names."
    if not node.level: return node.module or ''
    base = name.split('.')[:len(name.split('.')) - node.level + is_package]
    return '.'.join(base + ([node.module] if node.module else []))


STRING = re.compile(r'trmml(?:\.\w+)+')


def targets(name, path, known):
    "(module, imported names, line) of every import of the project's own modules, strings that are module paths included."
    tree = tree_of(path)
    docs = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and n.body and isinstance(n.body[0], ast.Expr)}
    for n in ast.walk(tree):
        if isinstance(n, ast.Import):
            for a in n.names:
                if a.name.split('.')[0] == 'trmml': yield a.name, [], n.lineno
        elif isinstance(n, ast.ImportFrom):
            base = absolute(n, name, path.name == '__init__.py')
            if base.split('.')[0] != 'trmml': continue
            plain = []
            for a in n.names:
                if f'{base}.{a.name}' in known: yield f'{base}.{a.name}', [], n.lineno
                else: plain.append(a.name)
            if plain: yield base, plain, n.lineno
        elif isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs:
            whole = n.value.split(':')[0]
            if STRING.fullmatch(whole):
                while whole not in known and '.' in whole: whole = whole.rpartition('.')[0]
                if whole in known and whole != 'trmml': yield whole, [], n.lineno


def imports(root):
    "module -> {imported module: line}."
    known = modules(root)
    return {m: {t: line for t, _, line in targets(m, p, known) if t in known and t not in (m, 'trmml')}   # the root has the version alone
            for m, p in known.items()}


def upward(root):
    "Imports against the order."
    out = []
    for m, found in imports(root).items():
        a = package_of(m)
        for t, line in found.items():
            b = package_of(t)
            if a == b or b == 'trmml' or (a, b) in ALLOWED: continue
            if a not in LEVEL or b not in LEVEL: out.append(f'{m} imports {t} (line {line}): not in the order')
            elif LEVEL[a] >= LEVEL[b]: out.append(f'{m} imports {t} (line {line})')
    return out


def cycles(root):
    "Sets of modules that import each other, directly or not. A package's own __init__ counts as a module."
    graph = {m: sorted(t) for m, t in imports(root).items()}
    index, low, stack, out, count = {}, {}, [], [], [0]
    def visit(v):
        index[v] = low[v] = count[0]
        count[0] += 1
        stack.append(v)
        for w in graph.get(v, ()):
            if w not in index: visit(w); low[v] = min(low[v], low[w])
            elif w in stack: low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            part = []
            while True:
                w = stack.pop()
                part.append(w)
                if w == v: break
            if len(part) > 1: out.append(sorted(part))
    sys.setrecursionlimit(10_000)
    for v in graph:
        if v not in index: visit(v)
    return out


def private(name): return name.startswith('_') and not (name.startswith('__') and name.endswith('__'))


def private_uses(root):
    "Private names that a module takes from another one, and private attributes that only other packages set."
    known, out = modules(root), []
    sets = {m: stored_attributes(p, p.stat().st_mtime_ns) for m, p in known.items()}
    everywhere = frozenset().union(*sets.values())
    for m, p in known.items():
        tree = tree_of(p)
        own = frozenset().union(*(s for k, s in sets.items() if package_of(k) == package_of(m))) | {
            n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        aliases = set()
        for n in ast.walk(tree):
            if isinstance(n, ast.ImportFrom) and (n.level or (n.module or '').startswith('trmml')):
                aliases |= {a.asname or a.name for a in n.names}
                out += [f'{m} takes {a.name} (line {n.lineno})' for a in n.names if private(a.name)]
            elif isinstance(n, ast.Import): aliases |= {a.asname or a.name for a in n.names if a.name.startswith('trmml')}
        for n in ast.walk(tree):
            if not isinstance(n, ast.Attribute) or not private(n.attr): continue
            if isinstance(n.value, ast.Name) and n.value.id in aliases: out.append(f'{m} takes {n.attr} of {n.value.id} (line {n.lineno})')
            elif n.attr in everywhere - own: out.append(f'{m} uses the attribute {n.attr} (line {n.lineno}) that another package sets')
    return out


def wide(root, width=100):
    root, n = Path(root), 0
    for p in modules(root).values():
        text = p.read_text(encoding='utf-8')
        n += sum(len(l) > width for l in text[text.find('\n# %% ../') + 1:].splitlines())   # below what nbdev writes
    cells = 0
    for p in (root/'nbs').rglob('*.ipynb'):
        for c in json.loads(p.read_text(encoding='utf-8'))['cells']:
            if c['cell_type'] == 'code': cells += sum(len(l) > width for l in ''.join(c['source']).splitlines())
    return n, cells


def main(root='.'):
    edges = imports(root)
    pairs = {(package_of(a), package_of(b)) for a, t in edges.items() for b in t} - {(p, p) for p in LEVEL}
    functions = [n.end_lineno - n.lineno + 1 for p in modules(root).values() for n in ast.walk(tree_of(p)) if isinstance(n, ast.FunctionDef)]
    packages = [p for p in (Path(root)/'trmml').iterdir() if (p/'__init__.py').exists()]
    lib, cells = wide(root)
    print(f'packages {len(packages)}, modules {len(edges)}, import edges {sum(map(len, edges.values()))}, between packages {len(pairs)}')
    print(f'import cycles {len(cycles(root))}' + ''.join(f'\n  {" ".join(c)}' for c in cycles(root)))
    print(f'private names across modules {len(private_uses(root))}' + ''.join(f'\n  {x}' for x in private_uses(root)[:40]))
    print(f'imports against the order {len(upward(root))}' + ''.join(f'\n  {x}' for x in upward(root)))
    functions.sort()
    print(f'functions {len(functions)}: median {functions[len(functions)//2]} lines, 90 % below {functions[int(.9*len(functions))]}, longest {functions[-1]}')
    print(f'lines over 100 characters: library {lib}, notebooks {cells}')


if __name__ == '__main__': main(*sys.argv[1:])
