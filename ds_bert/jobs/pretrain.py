"""Pre-train BERT as a pipeline: masked words and next sentences, on text from `ds-bert prepare`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds_bert.errors import exit_on_user_error, leave
from ds_bert.training.arguments import PretrainArguments
from ds_bert.training.start import Told, begin

if TYPE_CHECKING:
    from ds_bert.checkpoint.pretrained import PretrainedWeights
    from ds_bert.engine.process_group import Grid
    from ds_bert.engine.settings import EngineSettings
    from ds_bert.stage_map import StageMap
    from ds_bert.training.pretraining import PretrainingData


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(PretrainArguments, told)

    # What can be wrong is found before any process waits for another.
    from ds_bert.modeling.model import build_config
    from ds_bert.training import pretraining
    from ds_bert.training.checks import check_numbers
    from ds_bert.training.deepspeed_config import apply_deepspeed_config
    from ds_bert.training.model_source import settle_model
    from ds_bert.training.parameter_groups import with_layerwise_decay
    from ds_bert.training.placement import check_schedule, choose_stage_map
    from ds_bert.training.run import claim_run

    arguments = settle_model(arguments)
    model = pretraining.load_model(arguments)
    weights = pretraining.open_weights(arguments, model)
    arguments = pretraining.choose_objective(arguments, given, model)
    predictions = arguments.max_predictions_per_seq
    stage_map = choose_stage_map(arguments, given, model, arguments.max_seq_length, predictions)
    arguments, settings = apply_deepspeed_config(arguments, given, stage_map.num_replicas)
    check_numbers(arguments)
    check_schedule(arguments, stage_map)
    settings = with_layerwise_decay(settings, arguments.layerwise_lr_decay, build_config(model))
    data = pretraining.open_data(arguments, model, stage_map)
    checkpoint = claim_run(arguments, stage_map, model, data.fingerprint)

    return train(arguments, settings, model, weights, stage_map, data, checkpoint)


def train(
    arguments: PretrainArguments,
    settings: "EngineSettings",
    model: dict[str, Any],
    weights: "PretrainedWeights | None",
    stage_map: "StageMap",
    data: "PretrainingData",
    checkpoint: Path | None,
) -> int:
    """Build the engine, train, and return the exit status; nothing of what was handed in is wrong any more."""
    from ds_bert.engine.process_group import process_group
    from ds_bert.training.precision import fp32_products

    joining = process_group(stage_map, arguments.ddp_timeout, arguments.transport, arguments.start_timeout)
    with joining as grid, fp32_products(grid, settings):
        return _train(grid, arguments, settings, model, weights, data, checkpoint)


def _train(
    grid: "Grid",
    arguments: PretrainArguments,
    settings: "EngineSettings",
    model: dict[str, Any],
    weights: "PretrainedWeights | None",
    data: "PretrainingData",
    checkpoint: Path | None,
) -> int:
    from ds_bert.checkpoint.training_state import describe_model, go_on
    from ds_bert.data.sampler import GlobalBatchSampler
    from ds_bert.modeling.model import build_config
    from ds_bert.tasks.pretraining import PretrainingObjective, split_batch
    from ds_bert.training.agreement import check_agreement
    from ds_bert.training.build import build_engine, load_weights
    from ds_bert.training.checks import total_steps
    from ds_bert.training.feed import Feed
    from ds_bert.training.log import RunLog
    from ds_bert.training.loop import Training
    from ds_bert.training.meter import Meter
    from ds_bert.training.out_of_memory import explaining_out_of_memory
    from ds_bert.training.overview import (
        describe_batch,
        describe_engine,
        describe_resumption,
        describe_steps,
        show_overview,
    )
    from ds_bert.training.pretraining import describe_aim, work_of_example
    from ds_bert.training.run import conclude, failing_by_name, keep_settings, share

    size, micro_batches = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    config, stage_map = build_config(model), grid.stage_map
    objective = PretrainingObjective("sop" if arguments.sentence_order else "nsp")
    limit, folder = arguments.heartbeat_timeout, arguments.report_dir
    with failing_by_name(grid, heartbeat_timeout=limit, output_dir=folder) as heartbeat:
        engine = build_engine(config, "pretraining", objective, grid, settings, micro_batches)
        heartbeat.steps_done = lambda: engine.steps_done
        with explaining_out_of_memory(engine, arguments):
            if weights:
                load_weights(engine, weights)
            check_agreement(engine, arguments, stage_map, data.fingerprint)
            going_on_from = go_on(engine, arguments.run_dir, checkpoint)

            num_train, num_held_out = share(engine, [len(part) if part else 0 for part in (data.train, data.held_out)])
            sampler = GlobalBatchSampler(num_train, size * micro_batches * stage_map.num_replicas, arguments.seed)
            steps = total_steps(arguments, num_train / sampler.global_batch_size)
            keep_settings(engine, arguments, stage_map)
            lines = describe_engine(engine, model, f"weights of {weights.folder}" if weights else "fresh weights")
            lines += [
                ("batch", describe_batch(arguments, stage_map.num_replicas)),
                ("steps", describe_steps(arguments, steps, num_train / sampler.global_batch_size)),
                ("data", f"{arguments.train_path}: examples: {num_train:,} to train on, {num_held_out:,} held out"),
                ("aim", describe_aim(arguments)),
                *describe_resumption(arguments, going_on_from),
            ]
            show_overview(grid, lines)
            held_out = Feed(data.held_out, engine, split_batch)

            def measure() -> dict[str, float]:
                return held_out.measure(num_held_out, arguments.per_device_eval_batch_size)

            log = RunLog(arguments.run_dir, grid.rank == 0, engine.steps_done, steps, not arguments.disable_tqdm)
            meter = Meter(engine, work_of_example(arguments, model), arguments.peak_tflops)
            state = {"arguments": asdict(arguments), "global_batch": sampler.global_batch_size, "model": model}
            training = Training(
                engine,
                arguments,
                Feed(data.train, engine, split_batch),
                sampler,
                steps,
                measure if num_held_out else None,
                describe_model(config, data.train.tokenizer if data.train else None),
                state | {"data": data.fingerprint},
                log,
                meter,
            )
            outcome = training.run()
            return conclude(engine, arguments, stage_map, outcome, log, meter)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
