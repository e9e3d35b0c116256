"""Post-training quantization and pruning over one layer-by-layer calibration driver."""
