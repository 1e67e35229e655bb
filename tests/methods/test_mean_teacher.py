"""Mean Teacher: both losses by hand and alive, the ramp-up, and what the teacher is."""

import copy
import math

import pytest
import torch
from tests.methods.small import apart, parts, slope, views
from torch import Tensor, nn

from byolt.data.sampler import UNLABELLED
from byolt.methods.byol import Byol
from byolt.methods.mean_teacher import MeanTeacher, classification, consistency

LABELS = torch.tensor([2, 0, UNLABELLED, UNLABELLED, UNLABELLED, UNLABELLED])


def small(weight: float = 100.0, rampup_share: float = 0.5) -> MeanTeacher:
    encoder = parts()[0]
    net = MeanTeacher(encoder, nn.Linear(4, 3), consistency=weight, rampup_share=rampup_share).double()
    assert net.target is not None
    apart(net.target)
    return net


def test_classification_is_a_mean_over_the_labelled_alone() -> None:
    # Softmax of (ln 3, 0) gives class 0 a probability of 3/4; the second image is not labelled.
    logits = torch.tensor([[math.log(3), 0.0], [5.0, -5.0]])
    assert classification(logits, torch.tensor([0, UNLABELLED])).item() == pytest.approx(-math.log(3 / 4))


def test_consistency_by_hand() -> None:
    # Probabilities (3/4, 1/4) and (1/2, 1/2): squares 1/16 and 1/16, mean over the two classes 1/16; the other image
    # agrees: mean over images 1/32.
    student = torch.tensor([[math.log(3), 0.0], [1.0, 1.0]])
    teacher = torch.tensor([[2.0, 2.0], [0.0, 0.0]])
    assert consistency(student, teacher).item() == pytest.approx(1 / 32)


def test_loss_and_gradient_are_those_of_both_terms_with_the_teacher_held() -> None:
    net, (view_1, view_2) = small(), views()
    net.set_progress(0.25)
    other = copy.deepcopy(net)
    outcome = net(view_1, view_2, LABELS)
    outcome.loss.backward()
    assert other.target is not None
    taught = other.target(view_2).softmax(1).detach()
    weight = 100 * math.exp(-5 * 0.25)  # Half of the ramp-up is done: exp(-5 (1 - 1/2)^2).

    def loss() -> Tensor:
        probabilities = other.project(view_1).softmax(1)
        supervised = -(probabilities[0, 2].log() + probabilities[1, 0].log()) / 2
        return supervised + weight * (probabilities - taught).pow(2).mean()

    assert outcome.loss.item() == pytest.approx(loss().item(), rel=1e-5)
    expected = slope(loss, other.projector.weight, (2, 1))
    assert net.projector.weight.grad[2, 1].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("term", ["classification", "consistency"])
def test_each_term_alone_moves_the_student(term: str) -> None:
    """A consistency loss whose gradient is zero makes Mean Teacher supervised learning, and no metric tells."""
    net = small(weight=0.0 if term == "classification" else 100.0)
    net.set_progress(1.0)
    labels = LABELS if term == "classification" else torch.full((6,), UNLABELLED)
    labels = labels if term == "classification" else LABELS
    view_1, view_2 = views()
    if term == "classification":
        loss = net(view_1, view_2, labels).loss
    else:
        loss = net(view_1, view_2, labels).loss - classification(net.project(view_1), labels)
    loss.backward()
    for weight in (net.encoder[0].weight, net.projector.weight):
        assert weight.grad.abs().max() > 1e-4


def test_unlabelled_images_reach_the_student_through_the_consistency_alone() -> None:
    grads = {}
    for weight in (0.0, 100.0):
        net, (view_1, view_2) = small(weight), views()
        net.set_progress(1.0)
        logits = net.project(view_1)
        logits.retain_grad()
        assert net.target is not None
        taught = net.target(view_2).detach()
        (classification(logits, LABELS) + net.weight * consistency(logits, taught)).backward()
        grads[weight] = logits.grad[2:].abs().max().item()
    assert grads[0.0] == 0
    assert grads[100.0] > 1e-3


@pytest.mark.parametrize(("progress", "expected"), [(0.0, math.exp(-5)), (0.25, math.exp(-1.25)), (0.5, 1), (0.9, 1)])
def test_the_consistency_ramps_up_over_its_share_of_the_run(progress: float, expected: float) -> None:
    net = small(weight=10.0, rampup_share=0.5)
    net.set_progress(progress)
    assert net.weight.item() == pytest.approx(10 * expected, rel=1e-6)


def test_the_teacher_has_no_gradient_follows_and_is_evaluated() -> None:
    net = small()
    net(*views(), LABELS).loss.backward()
    assert net.target is not None
    assert all(weight.grad is None and not weight.requires_grad for weight in net.target.parameters())
    before = [weight.clone() for weight in net.target.parameters()]
    net.update_target(0.9)
    online = [*net.encoder.parameters(), *net.projector.parameters()]
    for old, new, fast in zip(before, net.target.parameters(), online, strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * fast.detach())
    assert net.eval_encoder is net.target[0]
    assert net.eval_classifier is net.target[1]


def test_without_labels_and_predictor_nothing_keeps_the_images_apart() -> None:
    """The unsupervised form (Table 5b of BYOL, 0.2 %): a moving average as target and no predictor."""
    encoder, projector = parts()
    net, (view_1, view_2) = Byol(encoder, projector, None).double(), views(batch=16)
    optimizer = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        net(view_1, view_2).loss.backward()
        optimizer.step()
        net.update_target(0.9)
    z = nn.functional.normalize(net(view_1, view_2).z[0], dim=1)
    assert z.std(0).mean() * 5**0.5 < 0.25
