//! flohctl, the operator's tool: one file per command.
