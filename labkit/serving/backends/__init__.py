"""Where requests are answered: our engine, transformers, or a vLLM server."""
