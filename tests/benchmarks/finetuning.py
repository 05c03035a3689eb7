"""Fine-tuning speed on two processes beside transformers' Trainer with DDP, from the same checkpoint and examples.

    python tests/benchmarks/finetuning.py --model checkpoint/ --task MRPC --data glue/MRPC
    python tests/benchmarks/finetuning.py --model checkpoint/ --task SQuAD --data squad/

Every system runs in turn, round after round, one thread a process; samples/s of training alone are compared. Trainer
runs twice: padding to the longest of a batch, and to the maximum length. Needs accelerate.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

from jobs import REPOSITORY, medians, on_two_processes, train

BASELINES = REPOSITORY / "docs" / "experiments" / "finetuning"
SYSTEMS = ("ds_bert, replicas", "ds_bert, 1F1B", "ds_bert, 2BW", "Trainer, longest", "Trainer, max_length")
LENGTH = {"MRPC": 128, "SQuAD": 384}
GLOBAL_BATCH = 32


def ours(flags: argparse.Namespace, how: str, folder: Path) -> float:
    """Train with ds_bert, as two replicas or on two stages with the schedule `how`, and return samples/s."""
    replicas = how == "replicas"
    micro_batch, micro_batches = (GLOBAL_BATCH // 2, 1) if replicas else (4, GLOBAL_BATCH // 4)
    schedule = "1f1b" if replicas else how
    squad = flags.task == "SQuAD"
    job = "finetune_squad" if squad else "finetune_glue"
    task = ("--task_name", "MRPC", "--data_dir", flags.data)
    squad_data = ("--train_file", flags.data / "train-v1.1.json", "--doc_stride", 240)  # Trainer's share 128 tokens
    data = squad_data if squad else task
    words = [
        *("--model_name_or_path", flags.model, *data, "--schedule", schedule, "--do_train"),
        *("--max_train_samples", flags.samples, "--num_train_epochs", 1, "--max_seq_length", LENGTH[flags.task]),
        *("--per_device_train_batch_size", micro_batch, "--gradient_accumulation_steps", micro_batches),
        *("--cache_dir", folder / "cache"),
    ]
    return train(job, [*words, "--bf16"] if flags.bf16 else words, folder / how, num_stages=1 if replicas else 2)


def trainer(flags: argparse.Namespace, padding: str, folder: Path) -> float:
    """Train with transformers' Trainer on two replicas and return samples/s."""
    squad = flags.task == "SQuAD"
    script = "trainer_squad.py" if squad else "trainer_glue.py"
    files = ("--train_file", flags.data / "train-v1.1.json", "--eval_file", flags.data / "dev-v1.1.json")
    data = files if squad else ("--task", "MRPC", "--data_dir", flags.data)
    command = [
        BASELINES / script,
        *("--model", flags.model, *data, "--results_dir", folder, "--epochs", 1, "--batch_size", GLOBAL_BATCH),
        *("--max_train_samples", flags.samples, "--max_eval_samples", 8, "--padding", padding),
        *("--max_seq_length", LENGTH[flags.task]),
    ]
    on_two_processes([*command, "--bf16"] if flags.bf16 else command)
    (result,) = folder.glob("trainer_*.json")
    return json.loads(result.read_text())["train_samples_per_second"]


def measure(flags: argparse.Namespace, system: str) -> float:
    """Run one system once."""
    name, _, how = system.partition(", ")
    with tempfile.TemporaryDirectory() as folder:
        return ours(flags, how.lower(), Path(folder)) if name == "ds_bert" else trainer(flags, how, Path(folder))


def main() -> None:
    """Print samples/s of each system, and how many times each ds_bert is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--task", choices=sorted(LENGTH), default="MRPC")
    parser.add_argument("--data", type=Path, required=True, help="MRPC's folder, or SQuAD's")
    parser.add_argument("--samples", type=int, default=2000, help="training examples (questions of SQuAD)")
    parser.add_argument("--bf16", action="store_true", help="all in bf16 (Trainer by autocast)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    flags = parser.parse_args()
    speeds = medians(flags.systems, flags.rounds, partial(measure, flags), "samples/s")
    best = max((system for system in speeds if system.startswith("ds_bert")), key=speeds.__getitem__)
    for system, speed in speeds.items():
        print(f"{system:<20} {speed:8.2f} samples/s   {best} / it: {speeds[best] / speed:.2f}")


if __name__ == "__main__":
    main()
