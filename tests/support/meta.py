"""Meta-learning's second, simpler implementation: transformers' BertModel, torch, and one loop over one task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call
from transformers import BertConfig, BertModel

from ds_bert.engine.execution import MicroBatch
from ds_bert.engine.module import StageModule
from ds_bert.engine.process_group import Grid, start_process_group
from ds_bert.engine.settings import EngineSettings
from ds_bert.meta.engine import MetaEngine
from ds_bert.meta.task import Learner, TaskBatches
from ds_bert.modeling.adapters import MetaHead, MetaModel, initialize_meta, meta_layers
from ds_bert.modeling.model import build_config, carry_declaration
from tests.support.state import load_by_name
from tests.support.toy import ENCODER_LAYERS, VOCABULARY, toy_map

Tensors = dict[str, torch.Tensor]
LENGTH, CLASSES, ROWS = 6, 3, 4


def meta_config(adapters: bool, layers: int = ENCODER_LAYERS, dropout: float = 0.0, pooling: str = "cls") -> BertConfig:
    """A BERT of width 8 with every first weight large enough to matter."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    model = MetaModel(3 if adapters else 0, adapters, head_hidden_size=6, encoding_size=5, pooling=pooling)
    more = {"num_hidden_layers": layers, "max_position_embeddings": 16, "initializer_range": 0.3}
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return build_config(sizes | more | drop | model.fields(), MetaHead)


def make_tasks(count: int, num_batches: int, seed: int = 0) -> list[TaskBatches]:
    """Tasks of random tokens; every class is in a support's first batch, some rows are padded."""
    random = np.random.default_rng(seed)
    return [
        TaskBatches(number, CLASSES, [_batch(random) for _ in range(num_batches)], _batch(random))
        for number in range(count)
    ]


def _batch(random: np.random.Generator) -> MicroBatch:
    lengths = np.array([LENGTH, *random.integers(3, LENGTH, ROWS - 1)])
    mask = np.arange(LENGTH)[None] < lengths[:, None]
    inputs = {
        "input_ids": torch.from_numpy(np.where(mask, random.integers(5, VOCABULARY, mask.shape), 0)),
        "token_type_ids": torch.zeros(mask.shape, dtype=torch.int64),
        "attention_mask": torch.from_numpy(mask),
    }
    labels = torch.from_numpy(np.array([0, 1, 2, int(random.integers(CLASSES))]))
    return MicroBatch(0, (ROWS, LENGTH, 1), inputs, {"labels": labels})


class Reference:
    """The learner on one process, from weights by name.

    Args:
        config: of the model.
        learner: what is to be learned how.
    """

    def __init__(self, config: BertConfig, learner: Learner) -> None:
        self.learner, plain = learner, config.to_dict()
        self.bert = BertModel(BertConfig(**plain, attn_implementation="eager"))
        self.weights: Mapping[str, torch.Tensor] = {}
        for name, module in self.bert.named_modules():
            if name.endswith("output.dropout"):
                module.register_forward_hook(self._adapt(f"bert.{name}.adapter."))

    def _adapt(self, prefix: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            for kind in ("global", "task"):
                if f"{prefix}{kind}.up.bias" in self.weights:
                    parts = [self.weights[f"{prefix}{kind}.{part}"] for part in PARTS]
                    output = output + F.linear(F.gelu(F.linear(output, *parts[:2])), *parts[2:])
            return output

        return hook

    def head(self, weights: Mapping[str, torch.Tensor], batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodings, and what label embeddings are made of."""
        self.weights = weights
        own = {name.removeprefix("bert."): weights[name] for name in weights if name.startswith("bert.")}
        own = {name: tensor for name, tensor in own.items() if ".adapter." not in name}
        inputs = dict(batch.inputs or {})
        output = functional_call(self.bert, own, kwargs=inputs)
        pooled = output.pooler_output
        if self.bert.config.meta_learning["pooling"] == "mean":
            mask_BT1 = inputs["attention_mask"][..., None]
            pooled = (output.last_hidden_state * mask_BT1).sum(1) / mask_BT1.sum(1)

        def two(prefix: str) -> torch.Tensor:
            first, second = ([weights[f"{prefix}.{n}.{part}"] for part in ("weight", "bias")] for n in (0, 2))
            return F.linear(torch.tanh(F.linear(pooled, *first)), *second)

        return two("meta.head"), two("meta.generator")

    def label_embeddings(self, weights: Mapping[str, torch.Tensor], batch: MicroBatch) -> torch.Tensor:
        """Means of what the generator makes of each class's examples."""
        generated, labels = self.head(weights, batch)[1], batch.labels["labels"]
        return torch.stack([generated[labels == number].mean(0) for number in range(CLASSES)])

    def loss(self, weights: Mapping[str, torch.Tensor], embeddings: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """Cross-entropy of a batch."""
        encoding = self.head(weights, batch)[0]
        found = encoding @ embeddings[:, :-1].T + embeddings[:, -1]
        if self.learner.method.euclidean:
            found = -((encoding.unsqueeze(1) - embeddings[:, :-1]) ** 2).sum(2)
        return F.cross_entropy(found, batch.labels["labels"])

    def objective(self, slow: Tensors, task: TaskBatches, kept: "list[Tensors] | None", share: float) -> torch.Tensor:
        """A task's weighted query losses.

        Args:
            slow: the weights by name.
            task: what to adapt to.
            kept: None to differentiate through inner gradients; an empty list to hold and keep them; else those kept.
            share: of the tasks.
        """
        # Clones: the label embeddings, which follow from the slow weights, are constants to an inner gradient.
        fast = {name: slow[name].clone() for name in slow if self.learner.selection.is_adapted(name)}
        fast["labels"] = self.label_embeddings(slow, task.support[0])
        total, steps, given = torch.zeros((), dtype=torch.float64), iter(kept or []), bool(kept)
        for item in self.learner.passes:
            network = slow | {name: tensor for name, tensor in fast.items() if name != "labels"}
            if item.kind == "query":
                total = total + item.weight * share * self.loss(network, fast["labels"], task.query)
            elif item.kind == "support":
                if given:
                    clipped = next(steps)
                else:
                    clipped = self._inner(network, fast, task.support[item.part], kept is None)
                    if kept is not None:
                        kept.append(clipped)
                fast = {name: fast[name] - slow[step_size_of(name)] * clipped[name] for name in fast}
        return total

    def _inner(self, network: Tensors, fast: Tensors, batch: MicroBatch, keep_graph: bool) -> Tensors:
        loss = self.loss(network, fast["labels"], batch)
        found = torch.autograd.grad(loss, list(fast.values()), create_graph=keep_graph, retain_graph=True)
        norm = torch.sqrt(sum((gradient**2).sum() for gradient in found))
        bound = self.learner.method.max_grad_norm
        scaled = [gradient * (bound / norm if norm > bound else 1.0) for gradient in found]
        return dict(zip(fast, scaled if keep_graph else [item.detach() for item in scaled], strict=True))


PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")


def step_size_of(name: str) -> str:
    """The name of the step size of a fast weight."""
    parts = name.split(".")
    if name == "labels":
        group = "labels"
    elif parts[:3] == ["bert", "encoder", "layer"]:
        group = f"layer.{parts[3]}"
    else:
        group = ".".join(parts[1:3]) if parts[0] == "meta" else parts[1]
    return f"meta.step_size.{group}"


def first_weights(config: BertConfig, seed: int = 5) -> Tensors:
    """The model's first weights in float64, biases and norms not 0 and 1, each step size another."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for number, make in enumerate(meta_layers(config)):
        layer = make()
        for local, parameter in layer.named_parameters():
            name = layer.hugging_face_name(local)
            initialize_meta(name, parameter.data, 0.02 * (number + 1), config, seed)
            value = parameter.detach().double()
            weights[name] = value + 0.1 * value.abs() * torch.rand(value.shape, generator=generator).double()
            if name.endswith("bias"):
                weights[name] = 0.1 * torch.randn(value.shape, generator=generator).double()
    return weights


@dataclass(frozen=True)
class MetaCase:
    """One outer step on ``num_tasks`` tasks; made anew on each process, since tensors are dear to send."""

    config: BertConfig
    learner: Learner
    num_tasks: int
    num_batches: int = 4
    precision: str = "fp64"
    recompute: bool = False

    @property
    def tasks(self) -> list[TaskBatches]:
        """Of all replicas."""
        return make_tasks(self.num_tasks, self.num_batches)


def meta_engine(grid: Grid, case: MetaCase, settings: EngineSettings) -> MetaEngine:
    """This process's stage, with `first_weights`."""
    config, replicas = case.config, grid.num_replicas
    module = StageModule(meta_layers(config), grid.stage_map.cuts, grid, settings.seed, case.recompute)
    declare = carry_declaration(config, settings.dtype)
    settings = replace(settings, is_trained=case.learner.selection.is_trained)
    engine = MetaEngine(module, declare, case.learner, settings, grid, case.num_tasks // replicas)
    everything = first_weights(config)
    own = {name: everything[name] for name in engine.optimizer.parameters}
    load_by_name(engine.optimizer, {"weights": own}, {}, 0)
    return engine


def tasks_of(grid: Grid, tasks: Sequence[TaskBatches]) -> list[TaskBatches]:
    """This replica's."""
    return list(tasks[grid.replica :: grid.num_replicas])


def gradients(grid: Grid, cases: Sequence[MetaCase]) -> list[tuple[float, dict[str, np.ndarray]]]:
    """(loss, this stage's part of the meta-gradient by name) of each case."""
    found = []
    for case in cases:
        settings = EngineSettings("sgd", precision=case.precision, max_grad_norm=0.0)  # type: ignore[arg-type]
        engine = meta_engine(grid, case, settings)
        before = {name: item.detach().clone() for name, item in engine.optimizer.parameters.items()}
        (result,) = engine.train_batch(tasks_of(grid, case.tasks), 1.0) + engine.drain()
        after = engine.optimizer.parameters
        moved = {name: (before[name] - after[name].detach()).cpu().numpy() for name in before}
        found.append((engine.objective.report(result.sums)["loss"], moved))
    return found


def _gradients(stage_map: Any, cases: Sequence[MetaCase]) -> list[tuple[float, dict[str, np.ndarray]]]:
    return gradients(start_process_group(stage_map, timeout_seconds=30), cases)


def meta_gradients(stages: int, replicas: int, cases: Sequence[MetaCase]) -> list[tuple[float, dict[str, np.ndarray]]]:
    """(loss, meta-gradient by name) of each case, on real processes."""
    from tests.support.processes import run_on_ranks

    ranks = run_on_ranks(_gradients, stages * replicas, toy_map(stages, replicas), list(cases), timeout=120)
    return [
        (ranks[0][place][0], {name: item for rank in ranks for name, item in rank[place][1].items()})
        for place in range(len(cases))
    ]
