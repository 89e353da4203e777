"""What every stage stands on: errors, files, tables, progress, the device, checkpoints."""
