"""CLIP from files of every published kind, against open_clip; broken files; prompts' gradients; bfloat16; Table 5's sizes."""
import os
import pickle
import warnings
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from trmml import clip as clips
from trmml.clip import (CLIP, OPENAI_MARKS, PromptLearner, encode_embeddings, image_features, load,
                        read_weights, tokenize)
from trmml.train.method import count_parameters
from trmml.methods import create

SENTENCES = ['a cat', 'a photo of a dining table.', 'two dogs on a sofa in front of a very small tv monitor, at night']


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    "Whoever wants to download fails at once."
    def refuse(cfg, *args, **kwargs): raise OSError('tests do not download')
    monkeypatch.setattr(open_clip.pretrained, 'download_pretrained', refuse)


def liven(model):
    "Make all of a random model count: open_clip starts BatchNorm, its last gains and all biases trivially."
    g = torch.Generator().manual_seed(1)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t, low in (m.weight, .1), (m.running_var, .8): t.data.copy_(low + .4*torch.rand(t.shape, generator=g))
            for t in (m.bias, m.running_mean): t.data.copy_(.1*torch.randn(t.shape, generator=g))
    for name, p in model.named_parameters():
        if name.endswith('bias') and not p.any(): p.data.copy_(.02*torch.randn(p.shape, generator=g))
    return model


@pytest.fixture(scope='module')
def state():
    "Tensors of a random RN50, rounded to half precision as OpenAI's are."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = liven(open_clip.create_model('RN50', pretrained=None))
    return {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}


@pytest.fixture(scope='module')
def picture(): return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope='module')
def reference(state, picture):
    "What open_clip's own code says with these tensors: pooled, and text features by activation."
    said = {}
    for quick in (False, True):
        model = open_clip.create_model('RN50', pretrained=None, force_quick_gelu=quick).eval()
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        with torch.inference_mode():
            if not quick: said['pooled'] = model.encode_image(picture)
            said[quick] = model.encode_text(open_clip.get_tokenizer('RN50')(SENTENCES))
    assert said['pooled'].abs().max() > .05 and (said[True] - said[False]).abs().max() > 1e-3     # 1e-5 says something
    return said


def marks(): return {k: torch.tensor(n) for k, n in zip(OPENAI_MARKS, (224, 77, 49408))}


class Archive(nn.Module):
    "A module with nothing but named tensors below it, as TorchScript keeps them."
    def __init__(self, tensors):
        super().__init__()
        inner = {}
        for name, t in tensors.items():
            head, _, rest = name.partition('.')
            if rest: inner.setdefault(head, {})[rest] = t
            elif t.is_floating_point(): self.register_parameter(head, nn.Parameter(t, requires_grad=False))
            else: self.register_buffer(head, t)
        for head, tensors in inner.items(): self.add_module(head, Archive(tensors))

    def forward(self, x): return x


def write_plain(state, path): torch.save({**state, **marks()}, path)
def write_archive(state, path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                               # TorchScript is deprecated
        torch.jit.trace(Archive({**state, **marks()}), torch.zeros(1)).save(str(path))
def write_open_clip(state, path):
    torch.save(dict(epoch=32, name='test', state_dict={f'module.{k}': v.float() for k, v in state.items()}), path)
def write_safetensors(state, path): save_file({k: v.contiguous() for k, v in state.items()}, path)


FORMATS = dict(plain=(write_plain, 'x.pt', True), archive=(write_archive, 'RN50.pt', True),
               open_clip=(write_open_clip, 'epoch_32.pt', False), safetensors=(write_safetensors, 'x.safetensors', False))


@pytest.fixture(scope='module', params=FORMATS)
def published(request, state, tmp_path_factory):
    "The same tensors as a file of one kind, read back by trmml: a CLIP, and whether its GELU is the quick one."
    write, name, quick = FORMATS[request.param]
    path = tmp_path_factory.mktemp(request.param)/name
    write(state, path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        clip = load('RN50', path)
    assert [("use the name 'RN50-quickgelu'" in str(w.message), name in str(w.message)) for w in said] == [(True, True)]*(not quick)
    path.unlink()                                                     # hundreds of megabytes
    assert clip.source == name
    return clip, quick


def test_file_gives_open_clips_pooled_features(published, reference, picture):
    clip, _ = published
    with torch.inference_mode(): assert_close(clip.pooled(picture), reference['pooled'], atol=1e-5, rtol=0)


def test_file_gives_open_clips_text_features(published, reference):
    clip, quick = published
    with torch.inference_mode(): assert_close(clip.text(SENTENCES), reference[quick], atol=1e-5, rtol=0)


def test_dense_features_at_448(published):
    clip, _ = published
    assert (clip.image_size, clip.d) == (448, 1024)
    with torch.inference_mode(): dense = clip.dense(torch.zeros(1, 3, 448, 448))
    assert dense.shape == (1, 1024, 14, 14) and dense.isfinite().all()


def test_quick_gelu_by_name(state, reference, tmp_path):
    save_file(state, tmp_path/'x.safetensors')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        clip = load('RN50-quickgelu', tmp_path/'x.safetensors')
    (tmp_path/'x.safetensors').unlink()
    with torch.inference_mode(): assert_close(clip.text(SENTENCES), reference[True], atol=1e-5, rtol=0)


# ---- broken files and names: one clear error each

@pytest.fixture(scope='module')
def tiny(): return load('doodle-clip', weights=None)


@pytest.mark.parametrize('tensors, message', [
    (lambda s: s, r'x\.pt is not a RN50: its positional_embedding is \(77, 128\), RN50 needs \(77, 512\)'),
    (lambda s: {k: v for k, v in s.items() if not k.startswith('visual.')}, 'x.pt is not a RN50: '),
    (lambda s: dict(hello=torch.zeros(3)), 'x.pt is not a RN50: it lacks positional_embedding'),
    (lambda s: dict(epoch=3, name='x'), 'holds no state dict: expected tensors by name'),
    (lambda s: [torch.zeros(3)], 'holds no state dict: expected tensors by name'),
], ids=['other architecture', 'half of it', 'something else', 'no tensors', 'a list'])
def test_wrong_contents(tiny, tmp_path, tensors, message):
    torch.save(tensors(tiny.model.state_dict()), tmp_path/'x.pt')
    with pytest.raises(ValueError, match=message): load('RN50', tmp_path/'x.pt')


def test_tensor_that_the_architecture_lacks(tiny, tmp_path):
    torch.save({**tiny.model.state_dict(), 'visual.layer5.conv1.weight': torch.zeros(1)}, tmp_path/'x.pt')
    with pytest.raises(ValueError, match=r'is not a doodle-clip: it has visual\.layer5'): load('doodle-clip', tmp_path/'x.pt')


@pytest.mark.parametrize('name', ['x.pt', 'x.safetensors'])
@pytest.mark.parametrize('share', [0, .01, .5, .999])
def test_truncated_file(tiny, tmp_path, name, share):
    path = tmp_path/name
    if name.endswith('.pt'): torch.save(tiny.model.state_dict(), path)
    else: write_safetensors(tiny.model.state_dict(), path)
    os.truncate(path, int(share*path.stat().st_size))
    with pytest.raises(ValueError, match=f'{name} is not a readable weights file'): load('doodle-clip', path)


class Evil:
    "Pickled, it asks the reader to make a file."
    def __init__(self, marker): self.marker = str(marker)
    def __reduce__(self): return os.mkdir, (self.marker,)


def evil_pickle(path, evil): path.write_bytes(pickle.dumps(evil))
def evil_torch(path, evil): torch.save(dict(state_dict=evil), path)
def evil_legacy(path, evil): torch.save(evil, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize('write', [evil_pickle, evil_torch, evil_legacy], ids=lambda f: f.__name__)
@pytest.mark.parametrize('name', ['x.pt', 'x.safetensors', 'x.bin'])
def test_pickles_are_not_executed(tmp_path, write, name):
    marker = tmp_path/'was here'
    write(tmp_path/name, Evil(marker))
    with pytest.raises(ValueError, match=f'{name} is not a readable weights file'): load('doodle-clip', tmp_path/name)
    assert not marker.exists()
    if write is evil_pickle:                                          # the trap is a real one
        pickle.loads((tmp_path/name).read_bytes())
        assert marker.exists()


# ---- TorchScript archives are read, never run

class Layers(nn.Module):
    "Weights of several types and shapes, below modules with numbers for names; a mask."
    def __init__(self):
        super().__init__()
        layers = nn.Conv2d(3, 4, 1).half(), nn.BatchNorm2d(4), nn.Linear(2, 2, bias=False)
        self.layers, self.mask = nn.ModuleList(layers), torch.ones(2)
        self.share, self.sizes, self.where = .5, [1, 2], torch.device('cpu')
        self.turned = nn.Parameter(torch.arange(6.).reshape(2, 3).t()); self.tied = self.layers[2]
        self.register_buffer('count', torch.tensor(7))
        self.register_buffer('empty', torch.zeros(0, 3))
        self.register_buffer('flags', torch.tensor([True, False]))

    def forward(self, x): return x*self.mask + self.sizes[0]


def write_script(path, how, module):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                               # TorchScript is deprecated
        script = how == 'script'
        made = torch.jit.script(module) if script else torch.jit.trace(module, torch.zeros(2))
        made.save(str(path))


@pytest.mark.parametrize('how', ['script', 'trace'])
def test_archive_is_what_torch_makes_of_it(tmp_path, how):
    write_script(tmp_path/'x.pt', how, Layers()); got = read_weights(tmp_path/'x.pt')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); want = torch.jit.load(tmp_path/'x.pt').state_dict()
    assert set(got) == set(want) == set(Layers().state_dict())
    assert 'tied.weight' in got and 'mask' not in got
    for k, v in want.items():
        assert_close(got[k], v, rtol=0, atol=0)
        assert got[k].stride() == v.stride() and not got[k].requires_grad


def test_archive_is_not_given_to_torch(tmp_path, monkeypatch):
    def never(*_, **__): raise AssertionError('the archive was run')
    write_script(tmp_path/'x.pt', 'trace', Layers()); monkeypatch.setattr(torch.jit, 'load', never)
    assert 'layers.1.running_mean' in read_weights(tmp_path/'x.pt')


def test_code_of_an_archive_is_not_run(tmp_path, writes_a_file):
    marker = writes_a_file(tmp_path/'x.pt')
    for read in read_weights, lambda path: load('RN50', path):
        with pytest.raises(ValueError, match='x.pt is .*__setstate__'): read(tmp_path/'x.pt')
    assert not marker.exists()
    torch.jit.load(tmp_path/'x.pt')                                   # the trap is a real one
    assert marker.read_bytes() == bytes(range(16))


def rewritten(source, path, change):
    "The same archive with other contents: `change` of the name of a record and its bytes."
    with zipfile.ZipFile(source) as a, zipfile.ZipFile(path, 'w') as b:
        for n in a.namelist(): b.writestr(n, change(n.split('/', 1)[1], a.read(n)))


def pickled(text):
    "An archive's pickle replaced by another."
    return lambda name, data: text if name == 'data.pkl' else data


HOSTILE = dict(
    calls=(pickled(b'cos\nmkdir\n(X\x01\x00\x00\x00atR.'), 'os.mkdir is nothing that Torch'),
    builtin=(pickled(b'cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.'), 'builtins.eval is nothing'),
    function_of_torch=(pickled(b'ctorch.hub\nload\n(X\x01\x00\x00\x00atR.'), 'hub.load is nothing'),
    no_module=(pickled(b'].'), 'holds no module'),
    cut=(pickled(b'c__torch__\nX\n'), ''),
    other_class=(pickled(b'c__torch__\nNone\n)\x81}b.'), ''),
    no_numbers=(lambda name, data: b'' if name.startswith('data/') else data, 'larger than data/'),
    no_source=(lambda name, data: b'' if name.endswith('.py') else data, ''))


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_archive(tmp_path, monkeypatch, case):
    change, words = HOSTILE[case]; monkeypatch.chdir(tmp_path)
    write_script(tmp_path/'good.pt', 'trace', Layers())
    rewritten(tmp_path/'good.pt', tmp_path/'x.pt', change)
    if words:
        said = f'x.pt is not a readable .*{words}'
        with pytest.raises(ValueError, match=said): read_weights(tmp_path/'x.pt')
    else:
        try: assert read_weights(tmp_path/'x.pt') == {}               # or nothing in it
        except ValueError as error: assert 'x.pt is not a readable weights file' in str(error)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['good.pt', 'x.pt']


def test_bits_of_an_archive(tmp_path):
    "A changed bit of any tensor is noticed: the zip has a sum for each."
    write_script(tmp_path/'x.pt', 'trace', Layers())
    data = bytearray((tmp_path/'x.pt').read_bytes())
    at = data.index(torch.arange(6.).numpy().tobytes()); data[at + 5] ^= 64
    (tmp_path/'x.pt').write_bytes(data)
    with pytest.raises(ValueError, match='x.pt is not a readable'): read_weights(tmp_path/'x.pt')


def test_tag_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); (tmp_path/'openai').write_bytes(b'x')
    with pytest.raises(ConnectionError, match="'openai' of RN50"): load('RN50')


@pytest.mark.parametrize('name, weights, message', [
    ('hf-hub:a/b', None, 'unknown backbone'), ('local-dir:a', None, 'unknown backbone'),
    ('RN51', None, "unknown backbone 'RN51': use \"doodle-clip\" or one of open_clip's ResNets: RN50, .*RN101"),
    ('RN51', 'openai', "unknown backbone 'RN51'"),
    ('ViT-B-32', None, 'ViT-B-32 is not a CLIP ResNet'),
    ('ViT-B-32', 'openai', 'ViT-B-32 is not a CLIP ResNet'),
    ('RN50', 'openia', r"weights 'openia' of RN50: neither a file nor a tag of open_clip \(known tags: openai, "),
    ('RN50', 'gone/RN50.pt', "weights 'gone/RN50.pt' of RN50: neither a file nor a tag"),
])
def test_unknown_names(name, weights, message):
    with pytest.raises(ValueError, match=message): load(name, weights)


def test_no_network_says_what_to_do():
    with pytest.raises(ConnectionError, match="'openai' of RN50 could not be downloaded .* path of a local copy"): load('RN50')


@pytest.mark.parametrize('size', [0, 31, 100, 449])
def test_image_size(tiny, size):
    with pytest.raises(ValueError, match=f'image size {size}: use a multiple of 32'): tiny.preprocess(size)


# ---- text

@pytest.fixture(scope='module')
def rn50(state):
    "RN50 with random weights, for what does not concern files."
    clip = load('RN50', weights=None)
    clip.model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return clip


@pytest.fixture(params=['tiny', 'rn50'])
def either(request): return request.getfixturevalue(request.param)


@torch.inference_mode()
def test_cut_text_equals_77_tokens(either):
    clip = either
    longest = ' '.join(['dog']*75)
    for sentences in SENTENCES, SENTENCES[:1], [*SENTENCES, longest]:
        assert_close(clip.text(sentences), clip.model.encode_text(tokenize(sentences)), atol=1e-5, rtol=0)
    alone = torch.cat([clip.text([s]) for s in SENTENCES])
    assert_close(clip.text(SENTENCES), alone, atol=1e-5, rtol=0)      # a longer neighbour changes nothing


def test_too_long_a_sentence():
    with pytest.raises(ValueError, match='sentence 1 has more than 75 tokens'): tokenize(['a cat', ' '.join(['dog']*76)])


def uncut(clip, prompts, names):
    "(P, C, d) text features of the prompts through all 77 tokens and open_clip's own transformer."
    model, P, n = clip.model, *prompts.ctx.shape[::2]
    tokens = tokenize([' '.join(['X']*n) + f' {c}.' for c in names])
    table = model.token_embedding(tokens).expand(P, -1, -1, -1)       # (P, C, 77, width)
    ctx = prompts.ctx.expand(P, len(names), -1, -1)
    x = torch.cat([table[:, :, :1], ctx, table[:, :, 1 + n:]], 2).flatten(0, 1)
    assert x.shape[1] == 77
    x = model.ln_final(model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask))
    return (x[torch.arange(len(x)), tokens.argmax(1).repeat(P)] @ model.text_projection).view(P, len(names), -1)


NAMES = ['cat', 'dining table', 'very long name of a rare thing']
MANY = [f'{a} {b}'.strip() for a in ('', 'red', 'very old', 'half forgotten') for b in ('cat', 'dog', 'dining table', 'sofa', 'tv monitor', 'bus')]


@pytest.mark.parametrize('settings', [dict(), dict(class_specific=False), dict(dual=False), dict(n_ctx=4), dict(names=MANY),
                                      dict(names=MANY, class_specific=False)], ids=lambda s: str(dict(s, names=len(s.get('names', NAMES)))))
def test_gradients_of_prompts_equal_those_of_77_tokens(either, settings):
    "Many names: more prompts than one group holds, of different lengths."
    settings = dict(settings); clip, names = either, settings.pop('names', NAMES)
    prompts = PromptLearner(clip, names, **settings)
    target = torch.randn(clip.d, generator=torch.Generator().manual_seed(3))
    G, grads = [], []
    for features in (prompts(clip), uncut(clip, prompts, names)):
        G.append(features.detach())
        grads.append(torch.autograd.grad((torch.nn.functional.normalize(features, dim=-1) @ target).sum(), prompts.ctx)[0])
    assert_close(*G, atol=1e-5, rtol=0)
    assert grads[0].dtype == torch.float32 and grads[0].abs().max() > .01
    assert_close(*grads, atol=1e-5*max(1., grads[1].abs().max().item()), rtol=1e-5)   # a shared context sums over many classes


def test_padding_changes_nothing(tiny):
    prompts = PromptLearner(tiny, ['cat', 'a rather long name'])
    x = prompts.embeddings()[0].detach()
    y = x.clone()
    y[0, int(prompts.end[0]) + 1:] += 1                               # behind the end of the shorter sentence
    assert not torch.equal(x, y)
    assert_close(encode_embeddings(tiny.model, x, prompts.end), encode_embeddings(tiny.model, y, prompts.end), atol=1e-6, rtol=0)


# ---- BatchNorm folded

@pytest.fixture(scope='module', params=['RN50', 'RN101'])
def lively(request):
    "A CLIP whose BatchNorms do something, and open_clip's tower as it comes."
    model = liven(open_clip.create_model(request.param, pretrained=None).eval())
    return CLIP(model, request.param, 'random', 224), open_clip.create_model(request.param, pretrained=None).eval(), model.state_dict()


@torch.inference_mode()
def test_folded_tower_equals_the_plain_one(lively, picture):
    clip, plain, state = lively
    plain.load_state_dict(state)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in clip.tower.modules()) and clip.tower is clip.tower
    ours, theirs = clip.features(picture), image_features(plain.visual, picture)
    assert_close(ours.pooled, plain.encode_image(picture), atol=1e-5, rtol=1e-4)
    for a, b in zip(ours, theirs):
        assert_close(a, b, atol=1e-5*b.abs().max().item(), rtol=0)
        assert b.abs().max() > .05                                          # 1e-5 says something
        assert torch.cosine_similarity(a, b, dim=1).min() > .99999


@torch.inference_mode()
def test_folded_rn101_at_448():
    "The paper's tower at the paper's size: one image, 14 x 14 positions."
    model = liven(open_clip.create_model('RN101', pretrained=None).eval())
    clip, x = CLIP(model, 'RN101', 'random', 448), torch.randn(1, 3, 448, 448, generator=torch.Generator().manual_seed(6))
    ours, theirs = clip.features(x), image_features(model.visual, x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in clip.tower.modules()) and ours.dense.shape == (1, 512, 14, 14)
    for a, b in zip(ours, theirs):
        assert_close(a, b, atol=1e-5*b.abs().max().item(), rtol=0)
        assert torch.cosine_similarity(a, b, dim=1).min() > .99999 and b.std() > 1e-3


def test_fold_follows_the_weights(tiny):
    "Trained, loaded anew, moved: never features of weights that are no longer there."
    clip, x = load('doodle-clip', weights=None), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    before, other = clip.pooled(x), load('doodle-clip', weights=None, seed=1)
    clip.model.load_state_dict(other.model.state_dict())
    assert_close(clip.pooled(x), other.pooled(x), atol=1e-5, rtol=1e-5)
    assert (clip.pooled(x) - before).abs().max() > 1e-3
    clip.model.visual.requires_grad_()
    assert clip.tower is clip.model.visual
    with torch.no_grad(): clip.model.visual.conv1.weight.mul_(2)
    clip.model.visual.requires_grad_(False)
    assert clip.tower is not clip.model.visual
    with torch.no_grad(): assert_close(clip.pooled(x), image_features(clip.model.visual, x).pooled, atol=1e-5, rtol=1e-4)
    kept = clip.tower
    assert clip.to(torch.float64).tower is not kept and clip.tower.conv1.weight.dtype == torch.float64


# ---- numbers of other kinds

@torch.inference_mode()
def test_bfloat16_is_close(either):
    clip = load(either.name, weights=None)
    clip.model.load_state_dict(either.model.state_dict())
    size = clip.model.visual.image_size
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(4))
    a, t = clip.features(x), clip.text(SENTENCES)
    clip.to(torch.bfloat16)
    b, u = clip.features(x), clip.text(SENTENCES)
    assert clip.dtype == b.dense.dtype == b.pooled.dtype == u.dtype == torch.bfloat16
    for full, half in (a.dense, b.dense), (a.pooled, b.pooled), (t, u):
        assert torch.cosine_similarity(full, half.float(), dim=1).min() > .99


@torch.inference_mode()
def test_prompts_in_bfloat16_are_close(tiny):
    clip, names = load('doodle-clip', weights=None).to(torch.bfloat16), ['cat', 'dining table']
    full, half = PromptLearner(tiny, names)(tiny), PromptLearner(clip, names)(clip)
    assert half.dtype == torch.float32 and torch.cosine_similarity(full, half, dim=-1).min() > .99


# ---- Table 5: parameters in units of 2**20, RN101, the 80 classes of MS-COCO
#
# Learnable, TRM-ML 7,129,601 = 6.80: context vectors 2 x 80 x 16 x 512; category queries 80 x 512; the decoder's three
# norms, its four projections 512 -> 512 and its MLP 512 -> 2048 -> 512; the projector 512 -> 1024 -> 1024 -> 1024; the
# temperature. DualCoOp 1,310,720 = 1.25: the context vectors alone.
# Frozen, both 94,288,737 = 89.92: of CLIP's 119,688,033
#   visual.*                    56,259,936  less attnpool.positional_embedding 102,400, which dense features do not use;
#                               q_proj and k_proj of the attention pool are counted, though dense features do not use
#                               them either: only so do the printed totals come out
#   transformer.*               37,828,608
#   text_projection 262,144, positional_embedding 39,424, ln_final 1,024, logit_scale 1
#   token_embedding.weight      not counted (25,296,896), a look-up table
# Buffers (BatchNorm's statistics, the memory bank, thresholds, prototypes) are no parameters.

@pytest.fixture(scope='module')
def rn101(): return load('RN101', weights=None)


@pytest.mark.parametrize('name, learnable, total', [('trmml', 6.80, 96.72), ('dualcoop', 1.25, 91.17)])
def test_parameters_of_table5(rn101, name, learnable, total):
    method = create(name, rn101, [f'thing {i}' for i in range(80)])
    counts = count_parameters(method)
    assert {k: round(v/2**20, 2) for k, v in counts.items()} == dict(learnable=learnable, frozen=89.92, total=total)
    assert counts['frozen'] == 94_288_737 == 56_259_936 - 102_400 + 37_828_608 + 262_144 + 39_424 + 1_024 + 1
    assert counts['learnable'] == dict(trmml=7_129_601, dualcoop=2*80*16*512)[name]
    if name == 'trmml': assert sum(b.numel() for b in method.buffers()) > 80*64*512   # the bank is there, and is not counted


@pytest.mark.parametrize('name', ['doodle-clip', 'doodle-resnet'])
def test_interpolation_is_part_of_the_key(name, tmp_path):
    "Bicubic, the default, keeps the names that features have had; bilinear has names and pixels of its own."
    from PIL import Image
    from trmml.features import describe, key
    path = tmp_path/'a.png'; Image.effect_noise((90, 60), 60).convert('RGB').save(path)
    plain, named, other = (clips.load(name, image_size=64, **g) for g in ({}, dict(interpolation='bicubic'), dict(interpolation='bilinear')))
    mean, std = clips.IMAGENET if name == 'doodle-resnet' else (clips.MEAN, clips.STD)
    written = (f'Compose(\n    Resize(size=(64, 64), interpolation=bicubic, max_size=None, antialias=True)\n    ToTensor()\n'
               f'    Normalize(mean={mean}, std={std})\n)')
    assert repr(plain.preprocess()) == repr(named.preprocess()) == written and repr(other.preprocess()) == written.replace('bicubic', 'bilinear')
    keys = [key(describe(c, [path])) for c in (plain, named, other)]; assert keys[0] == keys[1] != keys[2]
    img = Image.open(path); a, b = plain.preprocess()(img), other.preprocess()(img); assert (a - b).abs().max() > .1
    mean, std = (torch.tensor(v)[:, None, None] for v in (mean, std))
    assert torch.allclose(b, (torch.from_numpy(np.asarray(img.resize((64, 64), Image.Resampling.BILINEAR))).permute(2, 0, 1)/255 - mean)/std, atol=1e-5)
    with pytest.raises(ValueError, match="interpolation='box': use 'bicubic' or 'bilinear'"): clips.load(name, image_size=64, interpolation='box')
