"""An OpenAI-compatible server with adapters chosen by name."""
