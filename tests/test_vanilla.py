"""The vanilla peers: what their specification asks for, towers that are trained, photos end to end."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus
from torch.testing import assert_close

from trmml.labels import partial
from trmml.methods import VANILLA, create, trials
from trmml.methods.graphs import across, sst_theta, within
from trmml.methods.vanilla import LargeLoss, predicted
from trmml.metrics import mean_ap
from trmml.vanilla import backbones
from trmml.vanilla.heads import Decoupling, GraphHead
from trmml.vanilla.losses import LOSSES, apply, known_bce, large_loss, ll_count

PHOTOS = Path(__file__).resolve().parents[2]/'shared'/'data'/'coco128'/'train2017'
NAMES = ['cat', 'dog', 'sofa']


@pytest.fixture(scope='module')
def tower(): return backbones.load('doodle-resnet', None, 64)


# ---- 1: masks; the counts of VOC's labels themselves are in test_peers

def test_masks_are_nested_and_follow_the_seed():
    kept = [partial(np.ones((50, 20), np.int8), p/10) == 1 for p in range(1, 10)]
    assert all((a <= b).all() for a, b in zip(kept, kept[1:]))
    u = np.random.RandomState(0).rand(50, 20)
    assert u[0, :5].round(5).tolist() == [.54881, .71519, .60276, .54488, .42365] and ((u < .3) == kept[2]).all()


# ---- 2: known labels alone

def test_known_labels_alone():
    torch.manual_seed(0); s, y = 3*torch.randn(9, 7), torch.randint(-1, 2, (9, 7)); s.requires_grad_()
    each = [softplus(-v if t == 1 else v) for v, t in zip(s.flatten(), y.flatten()) if t != 0]
    loss = known_bce(s, y); assert_close(loss, torch.stack(each).mean()); loss.backward()
    assert (s.grad[y == 0] == 0).all()


# ---- 7, 8, 10: found labels

def test_found_labels_are_positive_only():
    torch.manual_seed(0); y = torch.randint(-1, 2, (40, 6)); k = 5*torch.randn(40, 15)
    f, bank = torch.randn(40, 6, 4), torch.randn(6, 10, 4)
    for found in within(k, y, .6), across(f, y, bank, torch.full((6,), 10), .1):
        assert (found[y != 0] == y[y != 0]).all() and set(found[y == 0].tolist()) == {0, 1}
    assert sst_theta(5) == .95 and sst_theta(30) == .75


def test_large_loss_rejects_no_observed_label():
    torch.manual_seed(0); s, y = 3*torch.randn(16, 20), torch.randint(-1, 2, (16, 20))
    for epoch in range(1, 10):
        z = s.clone().requires_grad_(); loss, _ = large_loss(z, y, epoch, 'R', 2.); loss.backward()
        rejected = z.grad == 0; n = min(ll_count(320, epoch, 'R', 2.), int((y == 0).sum()))
        assert rejected.sum() == n and (y[rejected] == 0).all()


def test_corrections_for_good_outlive_the_epoch(tower):
    m = LargeLoss(tower, NAMES, tower='frozen', scheme='Cp', delta=20.); y = torch.zeros(6, 3, dtype=torch.int8)
    m.size_tables(y)
    m.rows, m.epoch = torch.arange(6), 1; x = torch.randn(6, 3, 64, 64); m.loss(x, y)
    kept = m.flipped.clone(); assert kept.any()
    m.epoch = 0; assert_close(m.loss(x, y)['total'], apply('bce-an', m.logits(x), y.masked_fill(kept, 1), reduction='mean'))


def test_known_labels_survive_a_curriculum():
    s, y = torch.tensor([[9., -9., .1]]), torch.tensor([[-1, 1, 0]]); assert predicted(s, y).tolist() == [[0, 0, 0]]


# ---- 13: two average precisions

def test_envelope_is_never_below():
    rng = np.random.RandomState(0)
    for _ in range(20):
        y, s = np.where(rng.rand(60, 4) < .3, 1, -1), rng.rand(60, 4); y[0] = 1
        assert mean_ap(s, y, envelope=True) >= mean_ap(s, y) - 1e-12


def test_ties_as_scikit_learn():
    from sklearn.metrics import average_precision_score
    rng = np.random.RandomState(0); y, s = np.where(rng.rand(80, 5) < .3, 1, -1), rng.randint(4, size=(80, 5))/4
    assert mean_ap(s, y) == pytest.approx(np.mean([average_precision_score(y[:, c] == 1, s[:, c]) for c in range(5)]))


# ---- every loss on impossible scores

@pytest.mark.parametrize('name', LOSSES)
def test_extremes_are_finite(name):
    for y in torch.zeros(2, 4), torch.ones(2, 4), -torch.ones(2, 4), torch.tensor([[1., 0, -1, 1]]*2):
        for dtype in torch.float16, torch.bfloat16, torch.float32:
            z = torch.tensor([[-1e4, 1e4, 0, 60]]*2).to(dtype).requires_grad_(); v = apply(name, z, y, 3); v.backward()
            assert v.isfinite() and z.grad.isfinite().all()


# ---- a plain state dict of published sizes

def test_published_sizes_load():
    head = GraphHead(80, 1024, 1024); shapes = {k: tuple(v.shape) for k, v in head.state_dict().items()}
    assert shapes['fc.weight'] == (1024, 2048) and shapes['classifier.weight'] == (80, 1024) and shapes['graph.Wz.weight'] == (1024, 2048)
    dec = Decoupling(1024, 300, 512); assert tuple(dec.fc1.weight.shape) == (512, 1024) and tuple(dec.fc2.weight.shape) == (512, 300)
    again = GraphHead(80, 1024, 1024); again.load_state_dict(head.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), head.parameters()))


# ---- runs name towers and settings

def test_trials_build(tower):
    for name in VANILLA:
        options = trials(f'{name}-frozen'); assert len({str(o) for o in options}) == 12
        for o in options[0], options[-1]: create(f'{name}-frozen', tower, NAMES, **o)


def test_loss_of_a_method_without_one(tower):
    import trmml.clip
    clip = trmml.clip.load('doodle-clip')
    with pytest.raises(TypeError, match='a loss of its own'): create('scpnet-frozen', clip, NAMES, loss='hill')
    with pytest.raises(ValueError, match="unknown loss 'hil'"): create('trmml', clip, NAMES, loss='hil')
    a, b = create('trmml', clip, NAMES), create('trmml', clip, NAMES, loss='splc')
    x, y = torch.randn(2, 3, 64, 64), torch.tensor([[1, 0, -1], [0, 1, 0]], dtype=torch.int8)
    assert a.loss(x, y)['total'] != b.loss(x, y)['total']
    b.begin_epoch(0, 9); first = b.loss(x, y)['cls_r']; b.begin_epoch(1, 9); assert b.epoch == 1 and first.isfinite()


# ---- photos, from a tower that knows nothing

CHILD = """
import resource, sys, torch
from pathlib import Path
from trmml.learner import fit
from trmml.methods.scpnet import PictureStore
from trmml.methods.vanilla import Plain
from trmml.vanilla import backbones
photos, ckpt, stop, size, batch, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])
torch.set_num_threads(1); torch.use_deterministic_algorithms(True)
clip = backbones.load('resnet50', None, size); store = PictureStore(sorted(Path(photos).glob('*.jpg'))[:n], clip)
labels = torch.where(torch.rand(n, 4, generator=torch.Generator().manual_seed(0)) < .4, 1, -1).to(torch.int8)
method = Plain(clip, ['a', 'b', 'c', 'd'], tower='all', micro=4, batch=batch, epochs=2, lr=1e-4)
seen = method.after_step; count = [0]
def after():
    seen(); count[0] += 1
    if count[0] == stop: import os; os._exit(9)
method.after_step = after
log = fit(method, store, labels, checkpoint=ckpt, every=1)
print([r['total'] for r in log], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20)
"""


def child(ckpt, stop, size=448, batch=8, n=8):
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parents[1]), OMP_NUM_THREADS='1')
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', CHILD, str(PHOTOS), str(ckpt), str(stop), str(size), str(batch), str(n)],
                          env=env, capture_output=True, text=True, timeout=280)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason='shared/data/coco128 is not beside the repository')
def test_resnet50_on_photos_resumes(tmp_path):
    "At 64 pixels, to be quick: killed in the second epoch, it goes on to the same numbers."
    whole = child(tmp_path/'whole.pt', 0, 64, 2, 4); assert whole.returncode == 0, whole.stderr[-800:]
    assert child(tmp_path/'part.pt', 3, 64, 2, 4).returncode == 9
    part = child(tmp_path/'part.pt', 0, 64, 2, 4); assert part.returncode == 0, part.stderr[-800:]
    assert part.stdout.split(']')[0] == whole.stdout.split(']')[0]


@pytest.mark.skipif('TRMML_SLOW' not in os.environ or not PHOTOS.is_dir(), reason='a minute at 448 pixels: set TRMML_SLOW, with shared/data/coco128 beside the repository')
def test_resnet50_at_448_fits_into_six_gibibytes(tmp_path):
    done = child(tmp_path/'y.pt', 0, n=8); assert done.returncode == 0, done.stderr[-800:]
    assert float(done.stdout.split()[-1]) < 6
