"""MultiMix. Weights have a mixture per row here, and per column in the paper's Lambda."""

from collections.abc import Callable
from math import log
from unittest.mock import patch

import pytest
import torch
from helpers import (
    CLASSES,
    assert_even,
    assert_same,
    batch,
    cross_entropy,
    cut,
    drawing,
    entropy,
    heads,
    pair_matrix,
    tiny,
    total,
    with_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, ks_2samp, kstest
from torch import Tensor, nn
from torch.nn import functional as F

from mixbench.methods import Net, dirichlet
from mixbench.methods._simplex import MANY, halved, simplex
from mixbench.methods.baseline import Baseline
from mixbench.methods.densemultimix import DenseMultiMix
from mixbench.methods.manifold import Manifold
from mixbench.methods.mixup import Mixup
from mixbench.methods.multimix import MultiMix

pytestmark = pytest.mark.usefixtures("float64")

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10**6)
PARTNER = [3, 4, 1, 0, 2]


def literal(net: Net, stage: str, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Steps 1 to 5 of the sheet, mixture by mixture and example by example."""
    below, above = cut(net, stage)
    z, (n, b) = below(x), weights.shape
    mixed = [total(weights[k, i] * z[i] for i in range(b)) for k in range(n)]
    targets = [total(weights[k, i] * y[i] for i in range(b)) for k in range(n)]
    logits = above(torch.stack(mixed))
    return total(cross_entropy(logits[k], targets[k]) for k in range(n)) / n


def loss_of(weights: Tensor, net: Net, x: Tensor, y: Tensor, stage: str = "pool") -> Tensor:
    """The loss of MultiMix, had it drawn these weights (n, b)."""
    with drawing(weights[None]):
        return MultiMix(at=(stage,), p=1.0).loss(net, x, y)


@pytest.mark.parametrize("m", [None, 3, 1])
@pytest.mark.parametrize("head", ["linear", "tanh", "cosine"])
@pytest.mark.parametrize("stage", ["pool", "layer4", "layer2", "pixels"])
def test_loss_and_gradients_are_those_of_mixed_embeddings(
    stage: str, head: str, m: int | None
) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    net.head = heads(64)[head]
    weights = MultiMix(n=7, m=m).weights(5)
    loss = loss_of(weights, net, x, y, stage)
    expected = literal(net, stage, x, y, weights)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_two_mixtures_of_two_examples_worked_out_by_hand() -> None:
    """Embeddings are 0 and 4, and the odds of the first class are two to the power of them."""
    head = nn.Linear(1, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[log(2)], [0]]))
        head.bias.zero_()
    net = Net(pixels=nn.Identity(), pool=nn.Identity(), head=head)
    x, weights = torch.tensor([[0.0], [4.0]]), torch.tensor([[3 / 4, 1 / 4], [1 / 2, 1 / 2]])
    first = 3 / 4 * log(3 / 2) + 1 / 4 * log(3)  # at 1, p = (2/3, 1/3), for y = (3/4, 1/4)
    second = 1 / 2 * log(5 / 4) + 1 / 2 * log(5)  # at 2, p = (4/5, 1/5), for y = (1/2, 1/2)
    loss = loss_of(weights, net, x, torch.eye(2)).item()
    assert loss == pytest.approx((first + second) / 2, abs=1e-14)


def test_targets_may_be_soft() -> None:
    torch.manual_seed(0)
    net, (x, _), y = tiny(), batch(5), torch.randn(5, CLASSES).softmax(1)
    weights = MultiMix(n=7).weights(5)
    expected = literal(net, "pool", x, y, weights)
    loss = loss_of(weights, net, x, y)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


def test_single_precision_is_as_good() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().float(), batch(5)
    x = x.detach().float().requires_grad_()
    weights = MultiMix(n=7).weights(5)
    loss, expected = loss_of(weights, net, x, y.float()), literal(net, "pool", x, y, weights)
    assert loss.dtype == torch.float32
    for actual, wanted in zip(
        with_gradients(loss, net, x), with_gradients(expected.float(), net, x), strict=True
    ):
        assert_same(actual, wanted, atol=1e-5)


@pytest.mark.parametrize(("head", "rows"), [("linear", 5), ("tanh", 7), ("cosine", 7)])
def test_only_a_linear_head_sees_the_batch_instead_of_the_mixtures(head: str, rows: int) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    net.head = heads(64)[head]
    seen = []
    net.head.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    MultiMix(n=7, p=1.0).loss(net, x, y)
    assert seen == [rows]


@given(n=st.integers(1, 20), b=st.integers(1, 12), m=st.none() | st.integers(1, 15), seed=seeds)
@few
def test_rows_are_on_the_simplex_and_have_m_entries(
    n: int, b: int, m: int | None, seed: int
) -> None:
    torch.manual_seed(seed)
    w = MultiMix(n=n, m=m).weights(b)
    assert w.shape == (n, b)
    assert w.min() >= 0
    assert_same(w.sum(1), torch.ones(n), atol=1e-14)
    assert (w > 0).sum(1).tolist() == [min(m or b, b)] * n
    assert len(w.unique(dim=0)) == n or min(m or b, b) == 1


@given(size=st.lists(st.integers(1, 5), max_size=2), halvings=st.integers(0, 7), seed=seeds)
@few
def test_what_is_halved_adds_up(size: list[int], halvings: int, seed: int) -> None:
    torch.manual_seed(seed)
    w = halved(torch.rand(size) + 0.1, 2**halvings)
    assert w.shape == (*size, 2**halvings)
    assert w.min() >= 0
    assert_same(w.sum(-1), torch.ones(size), atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1e-3, 0.5, 2.0, 1e6])
def test_what_is_halved_is_non_negative_in_any_precision(alpha: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    w = halved(torch.full((100_000,), alpha, dtype=dtype), 8)
    assert w.dtype == dtype
    assert w.min() >= 0
    assert_same(w.sum(1), torch.ones(100_000, dtype=dtype), atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("uniform", [0.0, 0.25, 1 - 2**-53])
def test_no_random_number_breaks_the_halving(uniform: float) -> None:
    with (
        patch("torch.rand", lambda *size, dtype: torch.full(size, uniform, dtype=dtype)),
        patch("torch.rand_like", lambda z: torch.full_like(z, uniform)),
    ):
        w = halved(torch.tensor([1e-3, 0.5, 2.0, 1e6]), 8)
    assert w.min() >= 0
    assert_same(w.sum(1), torch.ones(4), atol=1e-14)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 1.7, 50.0])
def test_what_is_halved_has_beta_distributed_parts(alpha: float) -> None:
    torch.manual_seed(0)
    m, n = 8, 20_000
    w = halved(torch.full((n,), alpha), m)
    for part in (w[:, :1], w[:, 7:], w[:, 2:5], w[:, [0, 3, 4, 6]]):
        k = part.shape[1]
        assert kstest(part.sum(1), beta(k * alpha, (m - k) * alpha).cdf).pvalue > 1e-4
    one = w[:, 5] / (w[:, 1] + w[:, 5])
    assert kstest(one[one.isfinite()], beta(alpha, alpha).cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    "statistic", [Tensor.square, Tensor.sqrt, lambda w: w.clamp(min=1e-9).log()]
)
def test_what_is_halved_is_distributed_as_what_torch_draws(
    statistic: Callable[[Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    alpha = torch.empty(5000).uniform_(0.5, 2)
    ours, torchs = (statistic(draw(alpha, 32)).sum(1) for draw in (halved, dirichlet))
    assert ks_2samp(ours, torchs).pvalue > 1e-4


def test_all_that_is_halved_is_alike_and_pairs_are_correlated_alike() -> None:
    torch.manual_seed(0)
    m, n, alpha = 8, 200_000, 0.8
    w = halved(torch.full((n,), alpha), m)
    variance = (m - 1) / (m**2 * (m * alpha + 1))
    expected = variance * (m * torch.eye(m) - 1) / (m - 1)
    assert_same(w.mean(0), torch.full((m,), 1 / m), atol=5 * (variance / n) ** 0.5)
    assert_same(w.T.cov(), expected, atol=8 * variance / n**0.5)


@pytest.mark.parametrize(
    ("n", "m", "by_halves"), [(1000, 16, True), (1000, 12, False), (10, 16, False)]
)
def test_many_weights_of_a_power_of_two_are_halved(n: int, m: int, by_halves: bool) -> None:
    assert (n * m > MANY) == (n == 1000)
    alpha = torch.ones(n)
    torch.manual_seed(0)
    w = simplex(alpha, m)
    torch.manual_seed(0)
    assert w.equal((halved if by_halves else dirichlet)(alpha, m))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_weights_have_the_moments_of_the_dirichlet_distribution(alpha: float) -> None:
    torch.manual_seed(0)
    b, n = 8, 100_000
    w = MultiMix(n=n, alpha=(alpha, alpha)).weights(b)
    variance = (b - 1) / (b**2 * (b * alpha + 1))
    assert_same(w.mean(0), torch.full((b,), 1 / b), atol=4 * (variance / n) ** 0.5)
    assert w.square().sum(1).mean() == pytest.approx((alpha + 1) / (b * alpha + 1), rel=0.01)
    assert w.var(0).tolist() == pytest.approx([variance] * b, rel=0.03)


def test_weights_are_as_even_as_the_sheet_says() -> None:
    torch.manual_seed(0)
    assert MultiMix(n=20_000).weights(128).square().sum(1).mean() == pytest.approx(0.0149, abs=1e-4)


def test_alpha_is_drawn_uniformly_for_each_mixture() -> None:
    torch.manual_seed(0)
    with patch("mixbench.methods.multimix.simplex", wraps=simplex) as draws:
        MultiMix(n=10_000).weights(3)
    (alpha, m), _ = draws.call_args
    assert (alpha.shape, m) == ((1, 10_000), 3)
    assert alpha.min() >= 0.5
    assert alpha.max() <= 2
    assert_even(torch.histc(alpha, 20, 0.5, 2))


def test_each_mixture_has_the_variance_of_its_own_alpha() -> None:
    torch.manual_seed(0)
    alpha, n, m = torch.tensor([0.5, 1.0, 2.0]), 50_000, 4
    w = dirichlet(alpha.expand(n, 3), m)
    assert w.shape == (n, 3, m)
    for i, a in enumerate(alpha.tolist()):
        variance = (m - 1) / (m**2 * (m * a + 1))
        assert w[:, i].var(0).tolist() == pytest.approx([variance] * m, rel=0.04)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("b", "m"), [(2, None), (5, 2), (6, None), (6, 4), (8, None), (12, 8)])
def test_each_weight_is_beta_distributed(b: int, m: int | None, alpha: float) -> None:
    torch.manual_seed(0)
    lam = MultiMix(n=20_000, m=m, alpha=(alpha, alpha)).weights(b)[:, 0]
    others = (m or b) - 1
    assert kstest(lam[lam > 0], beta(alpha, others * alpha).cdf).pvalue > 1e-3


def test_all_subsets_are_equally_likely() -> None:
    torch.manual_seed(0)
    used = MultiMix(n=6000, m=2).weights(4) > 0
    subsets, counts = used.unique(dim=0, return_counts=True)
    assert len(subsets) == 6
    assert_even(counts)
    assert_same(used.double().mean(0), torch.full((4,), 2 / 4), atol=4 * (0.25 / 6000) ** 0.5)


@given(seed=seeds, m=st.none() | st.integers(1, 6))
@few
def test_mixtures_are_in_the_convex_hull_and_absent_classes_stay_absent(
    seed: int, m: int | None
) -> None:
    torch.manual_seed(seed)
    z, y = torch.randn(6, 4), torch.eye(CLASSES)[torch.randint(CLASSES - 1, (6,))]
    mixed, targets = MultiMix(n=50, m=m).mix(z, y)
    assert (mixed >= z.amin(0) - 1e-13).all()
    assert (mixed <= z.amax(0) + 1e-13).all()
    assert targets.min() >= 0
    assert_same(targets.sum(1), torch.ones(50), atol=1e-14)
    assert not targets[:, y.sum(0) == 0].any()


def test_without_mixing_it_is_the_baseline() -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny(), batch(5)
    loss, expected = loss_of(torch.eye(5), net, x, y), Baseline().loss(net, x, y)
    assert_same(with_gradients(loss, net, x), with_gradients(expected, net, x))


@pytest.mark.parametrize("stage", ["pool", "layer2", "pixels"])
def test_with_pairs_it_is_manifold_mixup(stage: str) -> None:
    torch.manual_seed(0)
    net, (x, y), weights = tiny(), batch(5), pair_matrix(0.3, PARTNER)
    with patch.object(Manifold, "weights", lambda *_: weights):
        manifold = Manifold(at=(stage,)).loss(net, x, y)
    multi = loss_of(weights, net, x, y, stage)
    assert_same(with_gradients(multi, net, x), with_gradients(manifold, net, x))


def test_with_pairs_of_images_it_is_input_mixup() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = tiny(), batch(5), pair_matrix(0.3, PARTNER)
    logits = net(0.3 * x + 0.7 * x[PARTNER])
    expected = F.cross_entropy(logits, 0.3 * y + 0.7 * y[PARTNER])
    assert_same(loss_of(weights, net, x, y, "pixels"), expected)


def test_one_hot_weights_resample_the_batch() -> None:
    torch.manual_seed(0)
    net, (x, y), sample = tiny(), batch(5), [4, 0, 0, 2, 4, 4, 1]
    expected = F.cross_entropy(net(x)[sample], y[sample])
    assert_same(loss_of(torch.eye(5)[sample], net, x, y), expected)


def test_a_small_alpha_picks_single_examples() -> None:
    torch.manual_seed(0)
    w = MultiMix(n=10_000, alpha=(0.01, 0.01)).weights(8)
    assert_same(w.sum(1), torch.ones(10_000), atol=1e-14)
    assert w.amax(1).mean() > 1.01 / 1.08 - 0.005  # the mean of the sum of squares is less


def test_a_large_alpha_gives_the_mean_of_the_batch() -> None:
    torch.manual_seed(0)
    w = MultiMix(n=1000, alpha=(1e4, 1e4)).weights(8)
    assert_same(w, torch.full((1000, 8), 1 / 8), atol=6 * (7 / 64 / 80_001) ** 0.5)


@given(seed=seeds)
@few
def test_the_loss_is_at_least_the_entropy_of_the_targets(seed: int) -> None:
    torch.manual_seed(seed)
    net, (x, y) = logits_as_images(), batch(6)
    x, weights = torch.randn(6, CLASSES), MultiMix(n=20).weights(6)
    assert loss_of(weights, net, x, y) > entropy(weights @ y).mean()


def test_the_loss_is_the_entropy_if_predictions_are_the_targets() -> None:
    torch.manual_seed(0)
    y = torch.randn(CLASSES).softmax(0).expand(6, CLASSES)
    loss = loss_of(MultiMix(n=20).weights(6), logits_as_images(), y.log(), y)
    assert_same(loss, entropy(y[0]), atol=1e-14)


@given(seed=seeds)
@few
def test_the_loss_is_at_most_that_of_all_pairs_of_logits_and_labels(seed: int) -> None:
    torch.manual_seed(seed)
    x, (_, y) = 3 * torch.randn(6, CLASSES), batch(6)
    weights = MultiMix(n=20).weights(6)
    pairs = torch.stack([torch.stack([cross_entropy(logits, t) for logits in x]) for t in y])
    bound = torch.einsum("ki,kj,ij->k", weights, weights, pairs).mean()
    assert loss_of(weights, logits_as_images(), x, y) <= bound


def logits_as_images() -> Net:
    """A network of one linear layer, the identity."""
    head = nn.Linear(CLASSES, CLASSES)
    nn.init.eye_(head.weight)
    nn.init.zeros_(head.bias)
    return Net(pixels=nn.Identity(), pool=nn.Identity(), head=head)


def test_the_order_of_examples_and_of_mixtures_does_not_matter() -> None:
    torch.manual_seed(0)
    net, (x, y), weights = tiny(), batch(5), MultiMix(n=7).weights(5)
    loss = loss_of(weights, net, x, y)
    assert_same(loss_of(weights[:, PARTNER], net, x[PARTNER], y[PARTNER]), loss)
    assert_same(loss_of(weights[[6, 3, 0, 1, 5, 2, 4]], net, x, y), loss)


def test_equal_labels_give_the_loss_of_that_class() -> None:
    torch.manual_seed(0)
    net, (x, _), y = tiny(), batch(5), torch.eye(CLASSES)[[2] * 5]
    weights = MultiMix(n=7).weights(5)
    expected = F.cross_entropy(weights @ net(x), torch.full((7,), 2))
    assert_same(loss_of(weights, net, x, y), expected)


@pytest.mark.parametrize("n", [1, 1000])
def test_every_image_gets_a_gradient(n: int) -> None:
    torch.manual_seed(0)
    net, (x, y) = tiny().eval(), batch(5)
    (gradient,) = torch.autograd.grad(MultiMix(n=n, p=1.0).loss(net, x, y), x)
    assert gradient.flatten(1).any(1).all()


@pytest.mark.parametrize("method", [MultiMix(), DenseMultiMix()])
def test_half_of_the_batches_is_mixed_so(method: MultiMix) -> None:
    torch.manual_seed(0)
    net, (x, y), n = tiny(), batch(2), 2000
    with (
        patch.object(type(method), "mixed_loss", return_value=torch.ones(())),
        patch.object(Mixup, "loss", return_value=torch.zeros(())),
    ):
        mixed = torch.stack([method.loss(net, x, y) for _ in range(n)])
    assert abs(mixed.mean() - 0.5) < 4 * 0.5 / n**0.5


def test_the_other_half_of_the_batches_takes_input_mixup() -> None:
    assert MultiMix(input_alpha=0.7).otherwise() == Mixup(at=("pixels",), p=1.0, alpha=0.7)


def test_the_defaults_are_those_of_the_paper() -> None:
    default = MultiMix(at=("pool",), p=0.5, n=1000, m=None, alpha=(0.5, 2.0), input_alpha=2.0)
    assert MultiMix() == default
