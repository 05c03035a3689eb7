"""Fine-tune on SQuAD with transformers' Trainer, and write exact match and F1 on the file to evaluate on.

It shares nothing with ds_bert's fine-tuning. A result that is there already is not computed again.
One process: ``python trainer_squad.py …``; two: ``torchrun --nproc_per_node 2 trainer_squad.py …``.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baseline import parser, record, scratch_folder, skip_if_done, train
from squad_answers import Question, Window, best_answers, measures, read
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, DataCollatorWithPadding, DefaultDataCollator


def encode(
    questions: Sequence[Question], tokenizer: Any, settings: argparse.Namespace, with_answers: bool
) -> tuple[list[dict[str, Any]], list[Window]]:
    """Cut questions into windows; a window that does not hold the whole answer has [CLS] as its answer."""
    ids = tokenizer(
        [question.text.lstrip() for question in questions],
        [question.context for question in questions],
        truncation="only_second",
        max_length=settings.max_seq_length,
        stride=settings.doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length" if settings.padding == "max_length" else False,
    )
    owners, offsets = ids.pop("overflow_to_sample_mapping"), ids.pop("offset_mapping")
    examples, windows = [], []
    for row, owner in enumerate(owners):
        parts = ids.sequence_ids(row)
        spans = [span if part == 1 else None for span, part in zip(offsets[row], parts, strict=True)]
        windows.append(Window(owner, spans))
        example = {key: ids[key][row] for key in ids}
        if with_answers:
            example |= dict(zip(("start_positions", "end_positions"), _place(questions[owner], spans), strict=True))
        examples.append(example)
    return examples, windows


def _place(question: Question, spans: list[tuple[int, int] | None]) -> tuple[int, int]:
    """Return the first and last token of the first answer; (0, 0) where it is not all in the window."""
    if not question.answers:
        return 0, 0
    text, begin = question.answers[0]
    end = begin + len(text)
    inside = [place for place, span in enumerate(spans) if span]
    if not inside or spans[inside[0]][0] > begin or spans[inside[-1]][1] < end:
        return 0, 0
    start = max(place for place in inside if spans[place][0] <= begin)
    return start, min(place for place in inside if spans[place][1] >= end)


def main() -> None:
    """Run one seed."""
    flags = parser(__doc__)
    flags.set_defaults(epochs=2, learning_rate=3e-5, batch_size=12, max_seq_length=384)
    flags.add_argument("--train_file", type=Path, required=True)
    flags.add_argument("--eval_file", type=Path, required=True)
    flags.add_argument("--version_2", action="store_true", help="some questions have no answer")
    flags.add_argument(
        "--doc_stride", type=int, default=128, help="tokens that two windows share, as in transformers' run_qa"
    )
    settings = flags.parse_args()
    task = "squad_v2" if settings.version_2 else "squad_v1"
    result = skip_if_done(settings, task)
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    questions = read(settings.eval_file, settings.max_eval_samples)
    train_questions = read(settings.train_file, settings.max_train_samples)
    train_examples, _ = encode(train_questions, tokenizer, settings, with_answers=True)
    examples, windows = encode(questions, tokenizer, settings, with_answers=False)
    model = functools.partial(
        AutoModelForQuestionAnswering.from_pretrained,
        settings.model,
        attn_implementation=settings.attn_implementation,
    )
    collator = DefaultDataCollator() if settings.padding == "max_length" else DataCollatorWithPadding(tokenizer)
    with scratch_folder() as folder:
        trainer, run = train(settings, model, train_examples, collator, folder)
        start_logits, end_logits = trainer.predict(examples).predictions
    if trainer.is_world_process_zero():
        answers = best_answers(questions, windows, start_logits, end_logits, settings.version_2)
        record(result, settings, task, measures(questions, answers), run | {"train_questions": len(train_questions)})


if __name__ == "__main__":
    main()
