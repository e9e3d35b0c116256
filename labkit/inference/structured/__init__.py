"""Structured decoding: from a regular expression or a JSON Schema to the tokens allowed next."""
