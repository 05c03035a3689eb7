"""Measure BERT pre-training throughput of several systems side by side, on two processes with one core each.

    python tests/benchmarks/pretraining.py --precision fp32 bf16 --steps 5 --rounds 3 --output results.json

The systems run in turn, round after round, so that a drift of the machine hits all alike. Before the rounds every
pipeline system tries its cuts in a short run each, and keeps the fastest. To add a system, write ``systems/NAME.py``
(see `workload`) and name it in `SYSTEMS`.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import machine
import report
import workload

HERE = Path(__file__).resolve().parent
SYSTEMS = {
    "ds_bert": 2,
    "ds_bert_2bw": 2,
    "ddp": 2,
    "torch_pipelining": 2,
    "deepspeed": 2,
    "one_core": 1,
}  # name → processes
CUTTABLE = ("ds_bert", "ds_bert_2bw", "torch_pipelining", "deepspeed")
MINUTES_PER_RUN = 20


def run_system(system: str, precision: str, options: dict[str, object]) -> dict | None:
    """Start one system with torchrun; return its JSON line, or None, having printed the end of its output."""
    processes = SYSTEMS[system]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "LOCAL_SIZE": str(processes),  # as DeepSpeed's own launcher sets it
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # ninja, for DeepSpeed's operator
    }
    process = subprocess.Popen(
        [*launch, "-m", f"systems.{system}", "--precision", precision, *flags],
        cwd=HERE,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=60 * MINUTES_PER_RUN)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its children
        output, _ = process.communicate()
    results = [line for line in output.splitlines() if line.startswith('{"system"')]
    if process.returncode == 0 and results:
        return json.loads(results[-1])
    print("\n".join(output.splitlines()[-30:]), file=sys.stderr)
    print(f"{system} {precision} failed with exit status {process.returncode}", file=sys.stderr)
    return None


def best_cut(system: str, precision: str, cuts: Sequence[int], options: dict[str, object]) -> tuple[int, dict]:
    """Try every cut in a run of one timed step; return the fastest and all samples/s by cut."""
    if len(cuts) == 1:
        return cuts[0], {}
    speeds: dict[int, float] = {}
    for cut in cuts:
        result = run_system(system, precision, options | {"steps": 1, "cut": cut})
        speeds[cut] = result["samples_per_second"] if result else 0.0
        print(f"calibration  {precision} {system} cut {cut}: {speeds[cut]:.2f} samples/s", flush=True)
    return max(speeds, key=lambda cut: speeds[cut]), speeds


def usable_precisions(asked: Sequence[str], speed: dict) -> list[str]:
    """Print the matrix product timing; return the precisions asked for, without bf16 where it is slow."""
    print(f"matrix product, one thread: fp32 {speed['fp32_gflops']} GFLOP/s, bf16 {speed['bf16_gflops']} GFLOP/s")
    if "bf16" in asked and not speed["fast"]:
        print("bf16 is left out: this processor is not fast at it")
        return [precision for precision in asked if precision != "bf16"]
    return list(asked)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; ``--smoke`` overrides steps, rounds and cuts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=5, help="timed optimizer steps per run (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every system (default: %(default)s)")
    parser.add_argument(
        "--cuts",
        nargs="+",
        type=int,
        choices=range(workload.LAYERS + 1),
        default=list(range(workload.LAYERS + 1)),
        help="encoder layers on the first stage to try; a single one is used without calibration (default: all)",
    )
    parser.add_argument(
        "--head",
        choices=["transformers", "masked"],
        default="transformers",
        help="MLM logits of the two-process peers: at every position, as transformers' model computes them, or at the "
        "masked positions only, as a user could write it (default: %(default)s)",
    )
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa", help="of transformers' layers")
    parser.add_argument("--output", type=Path, help="JSON file for the results; must not exist")
    parser.add_argument("--smoke", action="store_true", help="2 steps, 1 round, the cut after all encoder layers")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.steps, arguments.rounds, arguments.cuts = 2, 1, [workload.LAYERS]
    if arguments.output and arguments.output.exists():
        parser.error(f"--output: {arguments.output} exists already, and is not overwritten")
    return arguments


def settings(arguments: argparse.Namespace) -> dict:
    """Return the workload's constants and the command line as a JSON object."""
    constants = {name.lower(): value for name, value in vars(workload).items() if name.isupper()}
    return constants | {name: value for name, value in vars(arguments).items() if name != "output"}


def main() -> int:
    """Calibrate, run the rounds, print the table, write the JSON; exit status 1 if a run failed or a loss is off."""
    arguments = parse_arguments()
    results: dict = {"machine": machine.describe(), "bf16": machine.bf16_speed(), "settings": settings(arguments)}
    precisions = usable_precisions(arguments.precision, results["bf16"])
    options: dict[str, object] = {name: getattr(arguments, name) for name in ("warmup", "head", "attention")}

    cuts: dict[tuple[str, str], int] = {}
    results["calibration"] = {}
    for precision in precisions:
        for system in [name for name in CUTTABLE if name in arguments.systems]:
            cut, speeds = best_cut(system, precision, arguments.cuts, options)
            cuts[precision, system] = cut
            results["calibration"][f"{precision} {system}"] = {"cut": cut, "samples_per_second": speeds}

    runs: list[dict] = []
    failures = 0
    for number in range(1, arguments.rounds + 1):
        for precision in precisions:
            for system in arguments.systems:
                chosen = {"cut": cuts[precision, system]} if (precision, system) in cuts else {}
                result = run_system(system, precision, options | {"steps": arguments.steps} | chosen)
                if result is None:
                    failures += 1
                    continue
                runs.append(result | {"round": number})
                print(f"round {number}  {precision} {system}: {result['samples_per_second']:.2f} samples/s", flush=True)

    results |= {"runs": runs, "summary": report.summarise(runs), "problems": report.problems(runs)}
    print("", report.table(results["summary"]), *results["problems"], sep="\n")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 1 if failures or results["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
