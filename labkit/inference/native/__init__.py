"""The engine's C++ kernels: built once a machine, called on tensors."""
