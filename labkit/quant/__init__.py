"""Number formats: affine integers, NF4 and FP4 codebooks, packing, quantized linears."""
