"""The book: these notebooks with their stored outputs and a reference of the library (python .ci/book.py)."""
import json
import re
import sys
from configparser import ConfigParser
from pathlib import Path

from fastcore.docments import docments

sys.path.insert(0, str(Path(__file__).parent))   # for conf.anchor
settings = ConfigParser(delimiters=['='])
settings.read(Path(__file__).parents[1]/'settings.ini', encoding='utf-8')
cfg = settings['DEFAULT']

project, author, copyright, release = cfg['title'], cfg['author'], cfg['copyright'], cfg['version']
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.viewcode', 'sphinx.ext.mathjax']
root_doc = '_book/contents'      # made by .ci/book.py: parts that follow the folders
exclude_patterns = ['**/.*', '_book/static/**', '_book/doctrees/**', 'conf.py']
nb_execution_mode = 'off'
nb_merge_streams = True
nb_ipywidgets_js = {}            # nothing is asked of another host
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_dmath_double_inline = True  # $$ after a line of text
myst_heading_anchors = 4
myst_heading_slug_func = 'conf.anchor'
mathjax_path = 'mathjax/tex-svg.js'
mathjax4_config = {'output': {'fontPath': '[mathjax]/%%FONT%%-font'}}   # parts of the font, beside it
autodoc_typehints = 'signature'
autodoc_inherit_docstrings = False   # torch's are in another language of markup
autodoc_member_order = 'bysource'
add_module_names = False
# two classes are called TRMML; pages of the repository are not in the book (tests/test_entry.py follows every link)
suppress_warnings = ['ref.python', 'myst.xref_missing']
autodoc_default_options = {'members': True, 'show-inheritance': True}
python_maximum_signature_line_length = 88
html_theme, html_title = 'sphinx_book_theme', cfg['title']
html_static_path, html_css_files = ['_book/static', 'book.css'], ['book.css']
html_theme_options = dict(repository_url=cfg['git_url'], repository_branch=cfg['branch'], path_to_docs='nbs',
                          use_repository_button=True, show_toc_level=2, navbar_persistent=[])
html_show_sourcelink = html_copy_source = False


def anchor(title):
    "Of a heading, as JupyterLab makes it."
    return title.replace(' ', '-')


def without_directives(app, name, source):
    "Cells of a notebook that are for nbdev are left out, and so are the lines that begin with `#|`."
    if app.env.doc2path(name).suffix != '.ipynb': return
    nb, kept = json.loads(source[0]), []
    for c in nb['cells']:
        text = ''.join(c['source'])
        if c['cell_type'] == 'code':
            # the alternative text of a stored picture: MyST-NB takes it from the cell
            alts = [m['alt'] for o in c.get('outputs', []) for m in o.get('metadata', {}).values() if isinstance(m, dict) and 'alt' in m]
            if alts: c['metadata'] = c.get('metadata', {}) | {'mystnb': {'image': {'alt': ' | '.join(alts)}}}
            if re.search(r'^#\|\s*(hide|default_exp)\b', text, re.M): continue
            c['source'] = re.sub(r'^#\|.*\n?', '', text, flags=re.M)
        kept.append(c)
    source[0] = json.dumps(dict(nb, cells=kept))


def plain(text):
    "Text as it is written in Markdown, for reStructuredText: only code between backticks is marked up."
    parts = re.split(r'(`[^`]+`)', text)
    return ''.join(rf'\ `{p}`\ ' if p.startswith('`') else re.sub(r'([\\*_|`])', r'\\\1', p) for p in parts)


def from_docments(app, what, name, obj, options, lines):
    "Docstrings are plain text; comments at arguments become fields."
    lines[:] = [plain(l.strip()) for l in lines]
    try: found = docments(obj, returns=True) if what in ('function', 'method', 'class') else {}
    except Exception: found = {}   # no source to read: made by a decorator, say
    fields = [f':{"returns" if k == "return" else f"param {k}"}: {plain(" ".join(v.split()))}'
              for k, v in found.items() if v and k != 'self']
    if fields: lines += ['', *fields, '']


def setup(app):
    app.connect('source-read', without_directives)
    app.connect('autodoc-process-docstring', from_docments)
