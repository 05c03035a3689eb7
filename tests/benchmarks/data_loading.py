"""Measure how fast one core plans and loads masked sentence pairs.

python tests/benchmarks/data_loading.py                       # a synthetic corpus
python tests/benchmarks/data_loading.py --data_dir FOLDER     # what `ds-bert prepare` made
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from ds_bert.data.pairs import NUM_SPECIAL
from ds_bert.data.pretraining import Masking, PretrainingDataset
from ds_bert.data.sampler import GlobalBatchSampler
from ds_bert.data.shards import shard_name, write_manifest, write_shard
from ds_bert.data.vocabulary import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="default: a synthetic corpus in a temporary folder")
    parser.add_argument("--tokens", type=int, default=8_000_000, help="size of the synthetic corpus")
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--max_predictions_per_seq", type=int, default=20)
    parser.add_argument("--micro_batch_size", type=int, default=32)
    parser.add_argument("--whole_word_mask", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments.data_dir or write_synthetic_corpus(Path(temporary), arguments.tokens), arguments)


def write_synthetic_corpus(folder: Path, num_tokens: int) -> Path:
    """Write documents of 10 to 60 sentences of 5 to 40 random tokens."""
    words = [f"w{number}" for number in range(20_000)] + [f"##p{number}" for number in range(10_000)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    tokenizer = load_tokenizer(folder / "vocab.txt")
    tokenizer.save(folder / "tokenizer")
    rng = np.random.default_rng(0)
    sentences = rng.integers(5, 41, size=max(200, num_tokens // 22))
    documents = rng.integers(10, 61, size=len(sentences) // 60)
    documents = np.append(documents, len(sentences) - documents.sum())
    tokens = rng.integers(5, tokenizer.size, size=sentences.sum()).astype(np.uint16)
    entry = write_shard(folder / shard_name(0), tokens, sentences, documents)
    write_manifest(folder, tokenizer, [entry], {})
    return folder


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    dataset = PretrainingDataset(
        folder,
        max_seq_length=arguments.max_seq_length,
        masking=Masking(arguments.max_predictions_per_seq, whole_word_mask=arguments.whole_word_mask),
    )
    start = time.perf_counter()
    plan = dataset.plan(0)
    seconds = time.perf_counter() - start
    print(f"plan: {len(plan):,} examples in {seconds:.2f} s, {len(plan) / seconds:,.0f} examples/s")
    padding = 1 - (plan.len_a.astype(int) + plan.len_b).mean() / (arguments.max_seq_length - NUM_SPECIAL)
    print(f"      NotNext {plan.label.mean():.2%}, padding {padding:.3%}")

    sampler = GlobalBatchSampler(len(dataset), arguments.micro_batch_size, seed=0)
    dataset.batch(*sampler.samples(0))
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < arguments.seconds:
        steps += 1
        dataset.batch(*sampler.samples(steps))
    rate = steps * arguments.micro_batch_size / (time.perf_counter() - start)
    print(f"load: {rate:,.0f} sequences/s of length {arguments.max_seq_length} on one core")


if __name__ == "__main__":
    main()
