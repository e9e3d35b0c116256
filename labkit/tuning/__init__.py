"""Parameter-efficient tuning: one method a module, each with a config, apply and merge."""
