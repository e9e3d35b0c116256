"""MiniLLM and its parts, KV cache, tokenizer, weights in and out (GGUF, Hugging Face folders)."""
