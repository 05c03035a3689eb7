"""Train one model on many tasks, plainly or conditioned on each example's task (CA-MTL), as a pipeline."""

from dataclasses import replace

from ds_bert.command_line import Told
from ds_bert.errors import exit_on_user_error, leave
from ds_bert.jobs import begin
from ds_bert.multitask.arguments import MultitaskArguments, spell_out


def main(told: Told | None = None) -> int:
    """Run the job as told, see `ds_bert.training.parser.parse_arguments`; return its exit status."""
    arguments, given = begin(MultitaskArguments, told)
    arguments = spell_out(arguments, given)

    from ds_bert.multitask.job import MultitaskJob
    from ds_bert.multitask.model import (
        begin_last_layer,
        conditional_fields,
        for_tasks,
        freeze,
        labels_of_decoders,
        names_of_tasks,
    )
    from ds_bert.multitask.task_list import read_tasks
    from ds_bert.multitask.tasks import build_tasks, check_training, combine
    from ds_bert.training.finetuning import data_options, fine_tune
    from ds_bert.training.job import make_plan
    from ds_bert.training.starting_model import load_starting_model, resolve_model

    arguments = resolve_model(arguments)
    source = load_starting_model(arguments, may_be_conditional=True)
    entries = read_tasks(arguments.tasks, names_of_tasks(source.fields))
    plan = make_plan(arguments, given, source.fields, "sequence-classification")
    arguments = plan.arguments
    plan = replace(plan, settings=freeze(plan.settings, arguments.freeze_encoder_layers, source.fields))
    model = conditional_fields(arguments, given, source.fields)
    decoders = labels_of_decoders(source, arguments.drop_classifier)
    tasks = build_tasks(entries, arguments.data_dir or None, source.tokenizer, data_options(arguments), decoders)
    task = combine(tasks, model, arguments.percent_of_max_data_size)
    check_training(task, entries, arguments.task_sampling)
    source = for_tasks(source, task, arguments.drop_classifier)
    source, notes = begin_last_layer(source, model, arguments.freeze_encoder_layers)
    return fine_tune(replace(task, notes=(*notes, *task.notes)), plan, source, MultitaskJob)


if __name__ == "__main__":
    leave(exit_on_user_error(main))
