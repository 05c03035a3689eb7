"""What transformers' Trainer and scripts, and others, call what has another name here, or none."""

# Names (of transformers' TrainingArguments and example scripts, past and present, of BERT's own code, of launchers),
# and below them what to say of them. A job is told the first sentence whose arguments it all has; one without any fits
# every job. What stands in `quotes` is a command, and names no arguments of the job.
_TABLE = """
# when
eval_strategy evaluation_strategy evaluate_during_training
    --eval_steps says when: every so many steps, -1 after every epoch, 0 at the end only
save_strategy
    --save_steps says when: every so many steps, -1 after every epoch, 0 at the end only
checkpointing_steps save_checkpoints_steps save_interval
    use --save_steps
logging_strategy log_interval log_steps
    --logging_steps says every how many steps
    leave it out: all results are written
logging_first_step
    leave it out: --logging_steps 1 logs every step
    leave it out: all results are written
eval_delay eval_on_start eval_all_checkpoints
    leave it out: --eval_steps says when
max_train_steps num_train_steps train_iters train_step total_steps
    use --max_steps
epochs num_epochs n_epochs epoch num_train_epochs
    use --num_train_epochs
    use --epochs

# batches
per_gpu_train_batch_size train_micro_batch_size_per_gpu micro_batch_size batch_size
    --gradient_accumulation_steps says how many tasks a step has, --train_batch_size how many examples a task
    use --per_device_train_batch_size, the examples of a micro-batch, per replica
    use --train_batch_size
train_batch_size global_batch_size
    it is --per_device_train_batch_size × --gradient_accumulation_steps × replicas: set the first two
    use --train_batch_size
per_device_train_batch_size
    use --train_batch_size
per_gpu_eval_batch_size eval_batch_size predict_batch_size test_batch_size dev_batch_size
    use --per_device_eval_batch_size
grad_accum grad_accumulation_steps accumulate_grad_batches gradient_accumulation
    use --gradient_accumulation_steps
auto_find_batch_size
    not supported: a job that runs out of memory says what to change
dataloader_drop_last drop_last
    leave it out: epochs are laid end to end, so no batch is incomplete
group_by_length train_sampling_strategy length_column_name
    --length_window says how many steps' examples are sorted by length together
    leave it out: the order follows from --seed
split_batches dispatch_batches accelerator_config
    leave it out: every replica reads its part of the global batch

# optimizer
lr
    use --learning_rate
lr_scheduler scheduler lr_decay_style
    use --lr_scheduler_type
    leave it out: the rate rises over --warmup_ratio of the steps, then falls to 0
lr_scheduler_type
    leave it out: the rate rises over --warmup_ratio of the steps, then falls to 0
lr_scheduler_kwargs min_lr
    leave it out: --lr_scheduler_type linear and cosine end at 0
    leave it out: the rate falls to 0
num_warmup_steps warmup_step lr_warmup_iters warmup
    use --warmup_steps, or --warmup_ratio for a share of all steps
    use --warmup_ratio, a share of all steps
warmup_steps
    use --warmup_ratio, a share of all steps
warmup_proportion warmup_fraction lr_warmup_fraction
    use --warmup_ratio
optimizer optimizer_name
    use --optim
    leave it out: it is AdamW
optim
    leave it out: it is AdamW
adafactor
    not supported: --optim has adamw, lamb, adam and sgd
    not supported: it is AdamW
optim_args
    leave it out: --adam_beta1, --adam_beta2 and --adam_epsilon are arguments of their own
    leave it out: it is AdamW
optim_target_modules
    leave it out: only GaLore and APOLLO read it, which are not supported
adam_eps eps
    use --adam_epsilon
beta1
    use --adam_beta1
beta2
    use --adam_beta2
wd
    use --weight_decay
correct_bias
    use --adam_bias_correction
clip_grad gradient_clipping max_norm clip_grad_norm
    use --max_grad_norm
label_smoothing_factor label_smoothing neftune_noise_alpha
    not supported: losses are those published for these models
average_tokens_across_devices
    leave it out: the loss is always the mean over the global batch
dropout hidden_dropout
    use --hidden_dropout_prob
    it is the model's: hidden_dropout_prob in the file that --config_name names
attention_dropout
    use --attention_probs_dropout_prob
    it is the model's: attention_probs_dropout_prob in the file that --config_name names
layerwise_learning_rate_decay llrd layer_decay
    use --layerwise_lr_decay

# precision, memory, devices
activation_checkpointing recompute activations_checkpoint
    use --gradient_checkpointing
activation_checkpointing_kwargs gradient_checkpointing_kwargs use_reentrant
    leave it out: --gradient_checkpointing keeps each layer's input
    leave it out: nothing is computed again
fp16_opt_level fp16_backend half_precision_backend apex
    leave it out: under --fp16 and --bf16, weights and activations have 16 bits, sums and updates 32
    leave it out: it computes in fp32
bf16_full_eval fp16_full_eval
    leave it out: evaluation has the precision of training, see --bf16 and --fp16
    leave it out: it computes in fp32
bf16 fp16 tf32
    leave it out: it computes in fp32
mixed_precision precision dtype torch_dtype params_dtype
    use --bf16 or --fp16, neither for fp32
    leave it out: it computes in fp32
torch_compile torch_compile_backend torch_compile_mode torchdynamo use_liger_kernel liger_kernel_config use_ipex
jit_mode_eval attn_implementation flash_attn use_cache
    leave it out: layers are not compiled, and there are no other kernels to choose
torch_empty_cache_steps
    leave it out: a job says when it runs short of memory
low_cpu_mem_usage
    leave it out: every rank reads only the weights of its stage
use_cpu no_cuda use_mps_device device
    leave it out: with `DS_ACCELERATOR=cpu` in the environment it computes on CPUs
tpu_num_cores tpu_metrics_debug use_tpu tpu_name num_tpu_cores iterations_per_loop
    leave it out: TPUs are not supported
deepspeed ds_config
    use --deepspeed_config
    leave it out: this job has no settings of DeepSpeed's
deepspeed_config
    leave it out: this job has no settings of DeepSpeed's
fsdp fsdp_config fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap sharded_ddp zero_stage
    --deepspeed_config with ZeRO 1 shares out the optimizer, --num_stages or --stage_map the layers
    --num_stages or --stage_map shares out the layers
parallelism_config mp_parameters pipeline_model_parallel_size pipeline_parallel_size pp_size
    --num_stages cuts the layers evenly, --stage_map as its file says
tensor_model_parallel_size tensor_parallel_size tp_size
    not supported: layers are not split; --num_stages cuts between them
ddp_backend dist_backend distributed_backend
    use --transport
ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
    leave it out: how gradients are summed is not to be chosen
num_gpus num_accelerators n_gpu num_nodes nproc_per_node nnodes node_rank master_addr master_port hostfile include
standalone no_ssh num_processes
    it is the launcher's, and stands before the script: `deepspeed --num_accelerators 2 pipelines/…`

# saving and going on
resume_from_checkpoint load_checkpoint
    --resume goes on from the newest checkpoint in --output_dir
checkpoint_dir
    use --output_dir
load_best_model_at_end
    leave it out: with --eval_steps the best checkpoint by --metric_for_best_model is kept and used at the end
    leave it out: this job does not choose among checkpoints
greater_is_better
    leave it out: the measure that --metric_for_best_model names says it itself
    leave it out: this job does not choose among checkpoints
metric_name metric
    use --metric_for_best_model
    leave it out: this job does not choose among checkpoints
metric_for_best_model
    leave it out: this job does not choose among checkpoints
early_stopping patience
    use --early_stopping_patience
save_only_model
    leave it out: a checkpoint always holds what is needed to go on; `ds-bert export` writes the model alone
save_safetensors
    leave it out: weights are always safetensors
save_on_each_node log_on_each_node
    leave it out: --output_dir is one folder that all nodes see
save_total_limit save_steps
    leave it out: nothing is trained that is kept
enable_jit_checkpoint
    leave it out: SIGTERM always ends a job with a checkpoint
ignore_data_skip restore_callback_states_from_checkpoint
    leave it out: --resume goes on with the same bits, in the midst of an epoch, too
full_determinism
    leave it out: the same command gives the same numbers
data_seed shuffle_seed dataloader_seed random_seed
    use --seed, which is that of the order of examples, too
shuffle shuffle_train_dataset
    leave it out: training examples are always shuffled, as --seed says

# what is told
report_to run_name project with_tracking logging_dir wandb_project use_wandb tensorboard_dir trackio_space_id
trackio_bucket_id trackio_static_space_id
    leave it out: every --logging_steps steps, log.jsonl and tensorboard/ in --output_dir get all results
    leave it out: results are always written to --output_dir
log_level log_level_replica verbose verbose_logging
    leave it out: --disable_tqdm prints lines of progress in the place of a bar
    leave it out: results are always written to --output_dir
logging_nan_inf_filter debug
    leave it out: losses that are not finite end a job, or are passed over as --max_skipped_steps says
    leave it out: results are always written to --output_dir
include_num_input_tokens_seen include_tokens_per_second skip_memory_metrics
    leave it out: tokens a second and memory are always told
prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics
include_inputs_for_metrics batch_eval_metrics
    leave it out: the loss and the task's measures are always taken
push_to_hub push_to_hub_model_id push_to_hub_organization push_to_hub_token hub_model_id hub_token hub_strategy
hub_private_repo hub_always_push hub_revision
    leave it out: nothing is uploaded; a checkpoint is a Hugging Face folder, which `hf upload` takes

# model and tokenizer
model_name_or_path model model_name
    use --model_name_or_path
    use --checkpoint
init_checkpoint checkpoint pretrained_model tf_checkpoint tf2_checkpoint
    use --model_name_or_path with a folder; `ds-bert import` makes one of other checkpoints
    use --checkpoint with a folder; `ds-bert import` makes one of other checkpoints
model_type config_overrides
    leave it out: config.json of --model_name_or_path, or what --config_name names, says it
    leave it out: config.json of --checkpoint says it
bert_config_file albert_config_file config config_file bert_config_path config_name
    use --config_name
    leave it out: config.json of --checkpoint says it
tokenizer vocab_file vocab vocab_path spm_model_file tokenizer_name
    use --tokenizer_name
    leave it out: the tokenizer of --checkpoint is used
use_fast_tokenizer use_slow_tokenizer trust_remote_code
    leave it out: tokenizers are read as AutoTokenizer reads them, without code of theirs
do_lower_case do_lowercase lower_case
    leave it out: the tokenizer's own files say whether case is dropped
model_revision use_auth_token token revision
    leave it out: name a folder on this machine, such as `hf download` makes
ignore_mismatched_sizes
    use --drop_classifier, which begins with a fresh head
    leave it out: the head follows from the job
cached_dir
    use --cache_dir
cache_dir overwrite_cache
    leave it out: encoded data are used again only where they fit

# data
max_length max_len max_seq_len block_size seq_length sequence_length
    use --max_seq_length
pad_to_max_length pad_to_multiple_of
    leave it out: data have been made of full length by `ds-bert prepare`, see --train_path
    leave it out: a micro-batch is padded to its longest sequence
preprocessing_num_workers num_workers threads num_proc dataloader_num_workers dataloader_pin_memory
dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order
    leave it out: encoded data are mapped into memory and read there
remove_unused_columns label_names remove_columns remove_splits
    leave it out: --text_column, --text_pair_column and --label_column name what is read
    leave it out: the form of the data says what is read
label_column_name
    use --label_column
text_column_name text_column_names sentence1_key
    use --text_column, with --text_pair_column for a second text
sentence2_key
    use --text_pair_column
text_column_delimiter
    leave it out: two texts are a pair, see --text_pair_column
train_split_name validation_split_name test_split_name
    leave it out: the data set's own splits are used
do_regression is_regression
    use --regression
task glue_task task_name
    use --task_name
    use --tasks
validation_file eval_file dev_file predict_file eval_data_file eval_path
    use --validation_file, with --test_file for what is to be predicted
    use --predict_file
    use --eval_path with a data folder of `ds-bert prepare`
    use --test_file, with --support_file for what is learned from
    use --data_dir with the official files of all --tasks
dataset dataset_name dataset_config_name
    use --dataset_name, with --dataset_config_name for one of its configurations
    use --train_file and --predict_file with SQuAD's files
    use --train_path with a data folder that `ds-bert prepare` has made of the text
    use --task_train_files and --supervised_train_files
    use --task_dir, or --support_file and --test_file
    use --data_dir with the official files
train_file train_data_file input_file train_path
    use --train_file
    use --train_path with a data folder that `ds-bert prepare` has made of the text
    use --task_train_files and --supervised_train_files
    use --support_file
    use --data_dir with the official files of all --tasks
line_by_line keep_linebreaks no_keep_linebreaks streaming
    leave it out: how text is read is said to `ds-bert prepare --format`
validation_split_percentage train_val_split
    leave it out: held-out data are split off by `ds-bert prepare --validation_share`
do_train do_eval
    leave it out: this job always trains, and evaluates where it has something to
do_predict
    leave it out: this job predicts nothing
mlm masked_lm
    leave it out: --mlm_probability of the words is always predicted
masked_lm_prob mask_prob
    use --mlm_probability
do_whole_word_mask wwm
    use --whole_word_mask
max_val_samples
    use --max_eval_samples
version_2_with_negative squad_v2
    use --version_2
lang_id language train_language
    leave it out: the model's languages are its own
label_all_tokens return_entity_level_metrics
    leave it out: a word's first token stands for it
past_index ray_scope server_ip server_port use_legacy_prediction_loop
    leave it out: it means nothing here
"""


def _read_table(text: str) -> dict[str, list[str]]:
    """Return the sentences of each name."""
    successors: dict[str, list[str]] = {}
    sentences: list[str] = []
    for line in text.splitlines():
        if line.startswith("    "):
            sentences.append(line.strip())
        elif line and not line.startswith("#"):
            if sentences:  # names begin a new entry; they may take several lines
                sentences = []
            successors |= dict.fromkeys(line.split(), sentences)
    return successors


SUCCESSORS = _read_table(_TABLE)

# Values that transformers or DeepSpeed know: {argument: (what they look like, what to say)}
VALUES: dict[str, tuple[tuple[str, str], ...]] = {
    "optim": (
        ("adamw_(torch|torch_fused|torch_xla|torch_npu_fused|hf|apex_fused|anyprecision)|fused_?adamw?", "use adamw"),
        (".*(4bit|8bit|32bit).*", "moments have 32 bits here: use adamw with ZeRO 1, which shares them out"),
    ),
    "lr_scheduler_type": (
        ("constant_with_warmup|WarmupLR", "use constant, with --warmup_steps or --warmup_ratio"),
        ("polynomial|WarmupDecayLR", "use linear, which is the polynomial of power 1"),
        ("cosine_with_restarts|WarmupCosineLR", "use cosine, which is one cycle without restarts"),
    ),
    "schedule": (("pipedream[-_ ]?(2bw)?|double.buffer.*", "use 2bw"), ("dapple|pipedream[-_ ]?flush", "use 1f1b")),
    "warmup_steps": ((r"0?\.\d+(e-?\d+)?|\d+(\.\d+)?e-\d+", "a share of the steps is --warmup_ratio"),),
    "eval_steps": (("epoch", "-1 is after every epoch"), ("no|None", "0 is at the end only")),
    "save_steps": (("epoch", "-1 is after every epoch"), ("no|None", "0 is at the end only")),
    "save_total_limit": (("None", "0 keeps all"),),
}
