"""NVIDIA's Triton Inference Server around labkit: its model repository, models and process."""
