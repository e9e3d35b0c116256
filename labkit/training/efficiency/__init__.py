"""Training in less memory: recomputation, half precision, accumulation, and bytes foretold."""
