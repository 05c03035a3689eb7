"""The pre-training job and its objective: masked words and next sentences, or the order of sentences."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ds_bert.checkpoint.pretrained import PretrainedWeights
from ds_bert.checkpoint.saving import describe_model
from ds_bert.command_line import launcher_world
from ds_bert.data.pretraining import Masking, PretrainingDataset
from ds_bert.data.sampler import GlobalBatchSampler
from ds_bert.data.vocabulary import check_fits, load_tokenizer
from ds_bert.engine.engine import Engine
from ds_bert.engine.process_group import Grid
from ds_bert.errors import UserError
from ds_bert.modeling.config import refuse_pairs
from ds_bert.modeling.costs import training_flops
from ds_bert.modeling.families import family_of
from ds_bert.modeling.model import Carry, build_config
from ds_bert.stage_map import StageMap
from ds_bert.training.data_loader import DataLoader
from ds_bert.training.job import Job, Plan, Run
from ds_bert.training.job_arguments import PretrainArguments
from ds_bert.training.lifecycle import share
from ds_bert.training.log import Measures
from ds_bert.training.loop import Best, Course
from ds_bert.training.meter import Workload
from ds_bert.training.settings import check_at_most, total_steps
from ds_bert.training.starting_model import build_engine, check_weights, load_named_config, refuse_conditional


@dataclass
class PretrainingData:
    """The data sets of one process; None on stages that read nothing, and where nothing is held out."""

    train: PretrainingDataset | None
    held_out: PretrainingDataset | None

    @property
    def fingerprint(self) -> str | None:
        """Of the training data; None where nothing is read."""
        return self.train.corpus.fingerprint if self.train else None


def load_model(arguments: PretrainArguments) -> dict[str, Any]:
    """Read the configuration of the model to train.

    Raises:
        UserError: none or two were named, or it cannot be read or is for another job, or sequences are longer than its
            positions.
    """
    names = [name for name in (arguments.config_name, arguments.model_name_or_path) if name]
    if len(names) != 1:
        raise UserError(
            "needed is one of --config_name (from scratch) and --model_name_or_path (from weights), "
            f"found {'both' if names else 'neither'}"
        )
    model = load_named_config(arguments, names[0])
    refuse_conditional(model, names[0])
    refuse_pairs("pre-training", model["type_vocab_size"])
    check_at_most(arguments, "max_seq_length", model["max_position_embeddings"], f"the positions that {names[0]} has")
    tokens = "the tokens of a sequence (--max_seq_length)"
    check_at_most(arguments, "max_predictions_per_seq", arguments.max_seq_length, tokens)
    return model


def open_weights(arguments: PretrainArguments, model: dict[str, Any]) -> tuple[PretrainedWeights | None, str]:
    """Open the weights to start from, None for a model from scratch; and a sentence on what they lack.

    Raises:
        UserError: they are missing, damaged or another model's.
    """
    if not arguments.model_name_or_path:
        return None, ""
    weights = PretrainedWeights(Path(arguments.model_name_or_path), model["model_type"])
    return weights, check_weights(weights, build_config(model), "pretraining")[1]


def choose_objective(
    arguments: PretrainArguments, given: Collection[str], model: Mapping[str, Any]
) -> PretrainArguments:
    """Fill in how the model's family was pre-trained, wherever the user did not say otherwise.

    Whole words are masked in n-grams only where ``whole_word_mask`` was not given.

    Args:
        arguments: of the job.
        given: names of those that the user gave.
        model: from `load_model`.
    """
    said = {*given, "ngram_mask"} if "whole_word_mask" in given else given
    return replace(arguments, **{key: value for key, value in family_of(model).pretraining.items() if key not in said})


def open_data(arguments: PretrainArguments, model: dict[str, Any], stage_map: StageMap) -> PretrainingData:
    """Open the data sets on the ranks of the first and last stage.

    Raises:
        UserError: a folder is missing or damaged, or its vocabulary does not fit the model.
    """
    if not arguments.train_path:
        raise UserError("--train_path is missing; make a data folder with `ds-bert prepare`")
    rank, _ = launcher_world()
    stage, _ = stage_map.position(rank)
    if stage not in (0, stage_map.num_stages - 1):
        return PretrainingData(None, None)
    train = _open(arguments, arguments.train_path, model, evaluation=False)
    default = Path(arguments.train_path) / "validation"
    eval_path = arguments.eval_path or (str(default) if default.is_dir() and not arguments.measures_speed else None)
    return PretrainingData(train, _open(arguments, eval_path, model, evaluation=True) if eval_path else None)


def _open(arguments: PretrainArguments, path: str, model: dict[str, Any], evaluation: bool) -> PretrainingDataset:
    masking = Masking(
        arguments.max_predictions_per_seq, arguments.mlm_probability, arguments.whole_word_mask, arguments.ngram_mask
    )
    data = PretrainingDataset(
        path,
        arguments.max_seq_length,
        masking,
        arguments.seed,
        evaluation,
        arguments.sentence_order,
    )
    check_fits(data.tokenizer, model["vocab_size"])
    if arguments.tokenizer_name and load_tokenizer(arguments.tokenizer_name).fingerprint != data.tokenizer.fingerprint:
        raise UserError(
            f"{path}: was prepared with another tokenizer than --tokenizer_name {arguments.tokenizer_name}; prepare it "
            "anew with that one, or leave the flag out"
        )
    return data


class PretrainJob(Job[PretrainArguments]):
    """Pre-training from prepared data.

    Args:
        plan: how it is carried out.
        model: from `load_model`.

    Raises:
        UserError: weights or data are missing or damaged, or do not fit the model; or the output folder is occupied.
    """

    def __init__(self, plan: Plan[PretrainArguments], model: dict[str, Any]) -> None:
        weights, lacking = open_weights(plan.arguments, model)
        self.data = open_data(plan.arguments, model, plan.stage_map)
        self.config = build_config(model)
        super().__init__(plan, Run(model, self.data.fingerprint, weights, fresh_note=lacking))

    def build_engine(self, grid: Grid) -> Engine:
        """Build this process's stage."""
        arguments = self.arguments
        objective = PretrainingObjective("sop" if arguments.sentence_order else "nsp")
        count = arguments.gradient_accumulation_steps
        return build_engine(self.config, "pretraining", objective, grid, self.plan.settings, count)

    def make_course(self) -> Course:
        """Train on the data set in a random order; measure the held-out examples."""
        arguments, data = self.arguments, self.data
        sizes = [len(part) if part else 0 for part in (data.train, data.held_out)]
        self.num_train, self.num_held_out = share(self.engine, sizes)
        sampler = GlobalBatchSampler(self.num_train, self.plan.global_batch, arguments.seed)
        held_out = DataLoader(data.held_out, self.engine, split_batch)

        def measure() -> dict[str, float]:
            return held_out.measure(self.num_held_out, arguments.per_device_eval_batch_size)

        loader = DataLoader(data.train, self.engine, split_batch)
        steps = total_steps(arguments, sampler.steps_per_epoch)
        return Course(loader, sampler, steps, measure if self.num_held_out else None)

    def work(self) -> Workload:
        """What an example is; as many of its tokens are masked as `mlm_probability` has it."""
        arguments, length = self.arguments, self.arguments.max_seq_length
        masked = min(arguments.max_predictions_per_seq, max(1, round(arguments.mlm_probability * length)))
        return Workload(length, training_flops(self.run.model, length, masked))

    def writer(self) -> Callable[[Path], None]:
        """Return what writes the model's configuration and tokenizer into a checkpoint."""
        return describe_model(self.config, self.data.train.tokenizer if self.data.train else None)

    def measures(self, best: Best | None) -> Measures:
        """What charts show: the losses, and the one of a model that looks at no context."""
        entropy = self._unigram_entropy()
        return Measures(reference=("masked words without context", entropy) if entropy else None)

    def _unigram_entropy(self) -> float | None:
        return self.data.train.corpus.unigram_entropy if self.data.train else None

    def overview(self) -> list[tuple[str, str]]:
        """How many examples there are, and what is predicted."""
        arguments = self.arguments
        unit = f"n-grams of 1 to {arguments.ngram_mask} words" if arguments.ngram_mask > 1 else ""
        unit = unit or ("whole words" if arguments.whole_word_mask else "tokens")
        masked = f"{arguments.mlm_probability:.0%} of tokens, at most {arguments.max_predictions_per_seq} of a sequence"
        sentences = "sentence order" if arguments.sentence_order else "next sentences"
        counts = f"{self.num_train:,} to train on, {self.num_held_out:,} held out"
        lines = [
            ("data", f"{arguments.train_path}: examples: {counts}"),
            ("aim", f"masked {unit} ({masked}), and {sentences}"),
        ]
        if entropy := self._unigram_entropy():
            lines.append(("mark", f"mlm_loss {entropy:.4f}, what a model without context has: the tokens' entropy"))
        return lines


class PretrainingObjective:
    """Mean cross-entropy of the masked words plus that of the sentence pairs, each over the whole global batch.

    Dividing by the global batch's own counts, not by a micro-batch's, makes the gradient the same for every way of
    splitting a global batch (Devlin et al. 2019, appendix A.2: the loss is the sum of the two means).

    Args:
        pairs: what the measures of the sentence pairs are called after: "nsp" where the next sentence is predicted,
            "sop" where the order of sentences is (Lan et al. 2020).
    """

    def __init__(self, pairs: str = "nsp") -> None:
        self._pairs = pairs
        self.targets = ("masked_words", "next_sentence")
        # What `forward` sums per micro-batch; adding such vectors up over micro-batches and replicas is always right.
        self.sums = ("mlm_loss", "masked_words", "mlm_correct", f"{pairs}_loss", "pairs", f"{pairs}_correct")

    def counts(self, labels: Carry) -> torch.Tensor:
        """Return (masked words, pairs) of one micro-batch as a float64 vector on the CPU."""
        return torch.tensor([labels["masked_words"].numel(), labels["next_sentence"].numel()], dtype=torch.float64)

    def forward(self, outputs: Carry, labels: Carry, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a micro-batch's share of the global batch's loss.

        Args:
            outputs: ``mlm_logits`` (N, V) and ``nsp_logits`` (B, 2), whatever the pairs' question is.
            labels: ``masked_words`` (N,) and ``next_sentence`` (B,).
            totals: the global batch's `counts`, (2,), on the CPU.

        Returns:
            The share, a scalar that carries the gradient, and the vector of `sums`, (6,) float64.
        """
        mlm_logits_NV, nsp_logits_B2 = outputs["mlm_logits"], outputs["nsp_logits"]
        words_N, pairs_B = labels["masked_words"], labels["next_sentence"]
        mlm = F.cross_entropy(_at_least_fp32(mlm_logits_NV), words_N, reduction="sum")
        nsp = F.cross_entropy(_at_least_fp32(nsp_logits_B2), pairs_B, reduction="sum")
        loss = mlm / max(totals[0].item(), 1.0) + nsp / max(totals[1].item(), 1.0)
        with torch.no_grad():
            words_right, pairs_right = torch.zeros_like(mlm), torch.zeros_like(nsp)
            if not loss.requires_grad:  # in training, searching the vocabulary for every maximum is wasted time
                words_right = (mlm_logits_NV.argmax(1) == words_N).sum()
                pairs_right = (nsp_logits_B2.argmax(1) == pairs_B).sum()
            counts = [torch.full_like(mlm, words_N.numel()), torch.full_like(nsp, pairs_B.numel())]
            measures = [mlm, counts[0], words_right, nsp, counts[1], pairs_right]
            sums = torch.stack([measure.detach().double() for measure in measures])
        return loss, sums

    def report(self, sums: torch.Tensor) -> dict[str, float]:
        """Turn summed `sums` into what people read: losses in nats, accuracies as shares (0 in training)."""
        named = dict(zip(self.sums, sums.tolist(), strict=True))
        words, pairs = max(named["masked_words"], 1.0), max(named["pairs"], 1.0)
        mlm_loss, pair_loss = named["mlm_loss"] / words, named[f"{self._pairs}_loss"] / pairs
        return {
            "loss": mlm_loss + pair_loss,
            "mlm_loss": mlm_loss,
            "mlm_accuracy": named["mlm_correct"] / words,
            f"{self._pairs}_loss": pair_loss,
            f"{self._pairs}_accuracy": named[f"{self._pairs}_correct"] / pairs,
        }


def _at_least_fp32(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def split_batch(batch: Mapping[str, np.ndarray | None]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Split a batch of arrays into the first stage's inputs and the last stage's labels.

    Args:
        batch: ``input_ids``, ``token_type_ids`` and, where anything is padded, ``attention_mask`` (B, T);
            ``masked_positions`` and ``masked_labels`` (B, P), the latter -100 where a row has fewer than P;
            ``next_sentence_label`` (B,).
    """
    inputs = {
        key: torch.from_numpy(array)
        for key in ("input_ids", "token_type_ids", "attention_mask")
        if (array := batch.get(key)) is not None
    }
    positions, words, pairs = batch["masked_positions"], batch["masked_labels"], batch["next_sentence_label"]
    assert positions is not None and words is not None and pairs is not None
    length = inputs["input_ids"].shape[1]
    rows, columns = np.nonzero(words != -100)
    labels = {
        "masked_positions": torch.from_numpy(rows * length + positions[rows, columns]),
        "masked_words": torch.from_numpy(words[rows, columns]),
        "next_sentence": torch.from_numpy(pairs),
    }
    return inputs, labels
