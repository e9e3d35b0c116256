"""Lab 09: sampling, a KV cache, stop strings, broken decoders, a token's cost, beams."""
