"""MiniLLM, its KV cache, tokenizer and weights in and out (GGUF, Hugging Face folders)."""
