"""Second-order meta-gradients: autograd through the unrolled inner loop, where the cut has one stage."""

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.module import Carry, StageModule
from ds_bert.engine.transport import Uploader
from ds_bert.meta.inner_weights import StageWeights, clip_factor
from ds_bert.meta.task import Learner, TaskBatches, batch_loss, scores
from ds_bert.modeling.adapters import LABELS, STEP_SIZE, group_of

Tensors = dict[str, torch.Tensor]
_OWN = "labels"


class _Unrolled:
    """One task's inner loop, kept for autograd.

    Args:
        module: the whole model.
        weights: of the model; the gradients of what is trained are summed where they are bound.
        learner, task: see `ds_bert.meta.engine`.
        step: of the outer loop.
    """

    def __init__(
        self, module: StageModule, weights: StageWeights, learner: Learner, task: TaskBatches, step: int
    ) -> None:
        self.module, self.learner, self.task, self.step = module, learner, task, step
        # Views: what carries ``main_grad`` would be handed the inner gradients, too.
        self.outer = {name: outer.parameter.view_as(outer.parameter) for name, outer in weights.outer.items()}
        self.inner = {name: _differentiable(self.outer[name]) for name in weights.adapted}
        self.uploader = Uploader(next(iter(self.outer.values())).device)
        names = {id(outer.parameter): name for name, outer in weights.outer.items()}
        self.local = {local: names[id(item)] for local, item in module.named_parameters(remove_duplicate=False)}

    def outputs(self, batch: MicroBatch, adapted: bool) -> tuple[Carry, Carry]:
        """The model's outputs, and the labels, of a batch."""
        weights = self.outer | (self.inner if adapted else {})
        parameters = {local: weights[name] for local, name in self.local.items()}
        inputs, labels = self.uploader.begin(batch.inputs)(), self.uploader.begin(batch.labels)()
        outputs = functional_call(self.module, parameters, (inputs, None, (self.step, batch.number)))
        return outputs, labels

    def loss(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of a batch at the inner weights, and the share that is right."""
        outputs, labels = self.outputs(batch, adapted=True)
        method = self.learner.method
        found = scores(outputs[method.features], self.inner[_OWN], method.euclidean)
        return batch_loss(found, labels), (found.detach().argmax(1) == labels["labels"]).double().mean()

    def inner_step(self, loss: torch.Tensor) -> None:
        """Replace the inner weights by those after one step."""
        names = list(self.inner)
        gradients = torch.autograd.grad(
            loss, [self.inner[name] for name in names], create_graph=True, allow_unused=True, materialize_grads=True
        )
        norm = torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().reshape(1)
        clip = clip_factor(norm, self.learner.method.max_grad_norm)
        for name, gradient in zip(names, gradients, strict=True):
            group = LABELS if name == _OWN else group_of(name)
            alpha = self.outer[STEP_SIZE + group]
            self.inner[name] = self.inner[name] - alpha * clip.to(gradient.dtype) * gradient


def _differentiable(tensor: torch.Tensor) -> torch.Tensor:
    """What an inner gradient can be taken of, apart from the tensor itself, which the label embeddings come from."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def unrolled_loss(
    module: StageModule, weights: StageWeights, learner: Learner, task: TaskBatches, step: int, share: float
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a task's outer loss, of which its meta-gradients are, and (weighted loss, share right) of each query.

    Attention is computed by the one implementation that can be differentiated twice.

    Args:
        module, weights: the whole model.
        learner, task: how to learn what.
        step: of the outer loop.
        share: of the global batch's loss that is this task's.
    """
    unrolled, queries = _Unrolled(module, weights, learner, task, step), []
    total = torch.zeros((), dtype=torch.float64, device=unrolled.uploader.device)
    with sdpa_kernel(SDPBackend.MATH):
        for item in learner.passes:
            if item.kind == "regenerate":
                continue
            batch = task.batch_of(item, len(learner.passes))
            if item.kind == "generate":
                outputs, labels = unrolled.outputs(batch, adapted=False)
                unrolled.inner[_OWN] = learner.method.begin_weights(outputs, labels, task.num_classes)
                continue
            loss, right = unrolled.loss(batch)
            if item.kind == "support":
                unrolled.inner_step(loss)
            else:
                total = total + item.weight * share * loss
                queries.append(torch.stack([item.weight * share * loss.detach().double(), right]))
    return total, queries
