"""A head and a metric of one's own, for texts with labels in CSV, TSV or JSON lines.

The head scores the mean of a text's tokens instead of its first one, and what it predicts is measured by balanced
accuracy. All flags are those of `pipelines/finetune_glue.py`:

    deepspeed --num_accelerators 2 docs/examples/own_head.py --num_stages 2 --do_train --do_eval \
        --model_name_or_path bert-base-uncased/ --train_file train.csv --validation_file dev.csv --output_dir runs/mean
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from ds_bert.data.features import Features
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs import begin
from ds_bert.modeling.heads import HEADS, Head, HeadCost, Sizes
from ds_bert.modeling.model import Layer
from ds_bert.tasks.glue.task import GlueOptions, glue_task
from ds_bert.tasks.task import Outputs, Split
from ds_bert.training.finetuning import fine_tune, options_of
from ds_bert.training.job import make_plan
from ds_bert.training.job_arguments import GlueArguments
from ds_bert.training.starting_model import load_starting_model


class MeanHead(Layer):
    """The last layer of the pipeline: from hidden states to logits."""

    prefixes = {"classifier.": "classifier."}  # what its weights are called here, and in a checkpoint

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, carry: dict[str, torch.Tensor], labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the logits (B, labels) of what the encoder hands on; the objective makes the loss of them."""
        hidden_BTH = carry["hidden"]
        if "attention_mask" in carry:
            weights_BT1 = carry["attention_mask"][..., None].to(hidden_BTH)
        else:  # nothing is padded
            weights_BT1 = torch.ones_like(hidden_BTH[..., :1])
        mean_BH = (hidden_BTH * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
        return {"logits": self.classifier(mean_BH)}


def cost(sizes: Sizes) -> HeadCost:
    """What the head takes, so that an even cut can count it: one product a text, forward and twice backward."""
    products = sizes.hidden * sizes.labels
    return HeadCost(
        parameters=products + sizes.labels,
        flops=3 * 2 * products,
        activation_bytes=sizes.hidden * sizes.width,
    )


HEADS["mean"] = Head(MeanHead, cost, labels="of a task", own_names=("classifier.",))


def main() -> int:
    """Train and measure; return the exit status."""
    arguments, given = begin(GlueArguments)
    source = load_starting_model(arguments)
    plan = make_plan(arguments, given, source.fields, "mean")

    # The task as `pipelines/finetune_glue.py` reads it; only its head and its measure are others.
    task = glue_task(options_of(GlueOptions, plan.arguments), source.tokenizer)
    examples = task.evaluation["validation"].examples
    assert isinstance(examples, Features)  # tables are read whole
    labels = examples.columns["labels"]

    def measure(outputs: Sequence[Outputs]) -> dict[str, float]:
        """Outputs of all examples, in order; those of one have logits of (labels,)."""
        found = [output["logits"].argmax() for output in outputs]
        return {"balanced_accuracy": float(balanced_accuracy_score(labels, found))}

    task = replace(
        task,
        head="mean",
        evaluation={"validation": Split(examples, measure)},
        best_metric="balanced_accuracy",
        measures=(),
    )
    return fine_tune(task, plan, source)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
