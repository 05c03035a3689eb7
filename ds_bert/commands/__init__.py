"""The subcommands of `ds-bert`, one module each."""
