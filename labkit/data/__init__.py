"""Corpora, tokenizer training, chat formatting, packing and loaders."""
