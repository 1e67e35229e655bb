"""Mean Teacher: few labels, and predictions that must agree with those of a moving average on another view.

Tarvainen and Valpola 2017 (arXiv:1703.01780), section 2. Without the classification loss it is BYOL without predictor
and collapses (section 5 of BYOL, and Table 5b): that form is `method: {name: byol, predictor: none}`.
Axes: B images, C classes.
"""

import copy
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from byolt.data.sampler import UNLABELLED
from byolt.distributed.collectives import mean_over_processes
from byolt.methods.base import Images, Method, Outcome, upcast
from byolt.methods.build import Networks
from byolt.recipe.method_settings.mean_teacher import MeanTeacherMethod
from byolt_export.errors import InputError


class MeanTeacher(Method):
    """Student (encoder and linear classifier) and teacher, its moving average, which is evaluated and exported."""

    weight: Float[Tensor, ""]

    def __init__(self, encoder: nn.Module, classifier: nn.Linear, *, consistency: float, rampup_share: float) -> None:
        """Take the student's parts; the teacher starts as their copy.

        Args:
            encoder: f, (B, 3, H, W) to (B, F).
            classifier: (B, F) to logits (B, C), in the projector's place.
            consistency: Weight of the consistency loss after its ramp-up.
            rampup_share: Share of the run over which it rises, in [0, 1].
        """
        super().__init__(encoder, classifier)
        self.target = copy.deepcopy(nn.Sequential(encoder, classifier)).requires_grad_(False)
        self.consistency, self.rampup_share = consistency, rampup_share
        # Of the step at hand; on the device, so that a captured step reads it.
        self.register_buffer("weight", torch.zeros(()), persistent=False)
        self.set_progress(0.0)

    @property
    def eval_encoder(self) -> nn.Module:
        """The teacher's encoder, as in the paper's results."""
        assert self.target is not None
        return self.target[0]

    @property
    def eval_classifier(self) -> nn.Linear:
        """The teacher's classifier."""
        assert self.target is not None
        head = self.target[1]
        assert isinstance(head, nn.Linear)
        return head

    def terms(self, view_1: Images, view_2: Images, labels: Int64[Tensor, "B"]) -> Iterator[Outcome]:
        """Cross-entropy of the labelled images plus the weighted consistency of all, both of the student's first view.

        Args:
            view_1, view_2: What the student and the teacher see.
            labels: Class of each image, ``UNLABELLED`` where it is not known.
        """
        assert self.target is not None
        logits = self.project(view_1)
        with torch.no_grad():  # In train mode, so with batch statistics, as the student.
            taught = self.target(view_2)
        loss = classification(logits, labels) + self.weight * consistency(logits, taught)
        yield Outcome(loss, (logits.detach(), taught))

    def set_progress(self, progress: float) -> None:
        """Set the weight of the consistency loss: ``w exp(-5 (1 - t)^2)``, t the share of the ramp-up that is done."""
        done = min(1.0, progress / self.rampup_share) if self.rampup_share else 1.0
        self.weight.fill_(self.consistency * math.exp(-5 * (1 - done) ** 2))


def classification(logits: Float[Tensor, "B C"], labels: Int64[Tensor, "B"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over the labelled images of the global batch; float32 under autocast."""
    logits = upcast(logits)
    labelled = mean_over_processes((labels != UNLABELLED).sum().to(logits.dtype))
    return F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum") / labelled


def consistency(student: Float[Tensor, "B C"], teacher: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Mean over images and classes of the squared difference of the class probabilities; float32 under autocast."""
    return (upcast(student).softmax(1) - upcast(teacher).softmax(1)).square().mean()


def refuse_unlabelled(classes: int) -> None:
    """Refuse images without labels of two classes.

    Raises:
        InputError: ``classes`` are fewer.
    """
    if classes < 2:
        raise InputError(
            "method.name: mean_teacher needs images whose sub-folders are classes, at least two; label some of them, "
            "or take a method that needs no labels"
        )


def build(networks: Networks, settings: MeanTeacherMethod) -> MeanTeacher:
    """Mean Teacher by the recipe.

    Raises:
        InputError: The images have no labels of two classes.
    """
    refuse_unlabelled(networks.classes)
    with networks.drawn(1):
        classifier = nn.Linear(networks.feature_dim, networks.classes)
    return MeanTeacher(
        networks.encoder, classifier, consistency=settings.consistency, rampup_share=settings.rampup_share
    )
