"""Go on pre-training a model on text of one's own, and say what it has learnt of it.

    python docs/examples/domain_pretraining.py bert-base-uncased/ corpus.jsonl runs/field

Everything runs in this process, as in a notebook. On more than one, give the same arguments to
`deepspeed --num_accelerators 2 pipelines/pretrain.py`.
"""

import argparse
from pathlib import Path

from ds_bert import cli, jobs
from ds_bert.errors import UserError, exit_on_user_error
from ds_bert.training.log import read_log


def main() -> int:
    """Prepare, train twice and compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder of Hugging Face's")
    parser.add_argument("corpus", type=Path, help="text of your field: JSON lines, prose, or a sentence a line")
    parser.add_argument("output_dir", type=Path, help="a new folder")
    parser.add_argument("--epochs", type=float, default=1.0, help="passes over the text (default: %(default)s)")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens of a sequence (default: %(default)s)")
    arguments = parser.parse_args()

    data, before, after = (arguments.output_dir / name for name in ("data", "before", "after"))
    prepare(arguments.corpus, arguments.model, data)

    common = {
        "model_name_or_path": arguments.model,
        "train_path": data,  # its held-out part is found in it
        "max_seq_length": arguments.max_seq_length,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 4,
    }
    # One step at a rate of 0 leaves every weight as it is: its evaluation is that of the model as it came.
    jobs.run("pretrain", output_dir=before, max_steps=1, learning_rate=0.0, **common)
    jobs.run(
        "pretrain",
        output_dir=after,
        num_train_epochs=arguments.epochs,
        learning_rate=5e-5,
        warmup_ratio=0.1,  # a low rate that rises slowly keeps what the model knows
        **common,
    )

    print(f"masked words of held-out text, before: {held_out_loss(before):.3f} nats, after: {held_out_loss(after):.3f}")
    print(f"transformers loads the model from {after}")
    return 0


def prepare(corpus: Path, model: Path, data: Path) -> None:
    """Turn the text into a data folder, with the model's own tokenizer; one document in ten is held out."""
    words = ["--input", corpus, "--tokenizer_name", model, "--validation_share", 0.1, "--output_dir", data]
    if cli.main(["prepare", *map(str, words)]) != 0:
        raise UserError(f"{corpus}: could not be prepared, see above")


def held_out_loss(run: Path) -> float:
    """The last loss of masked words in text that the run was not trained on, in nats."""
    return [entry["eval/mlm_loss"] for entry in read_log(run) if "eval/mlm_loss" in entry][-1]


if __name__ == "__main__":
    raise SystemExit(exit_on_user_error(main))
