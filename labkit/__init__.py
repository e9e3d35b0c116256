"""labkit: reference implementations of LLM engineering, one module an idea.

Packages, bottom to top: `runtime`; `model`, `data`, `quant`, `objectives`; `tuning`, `compression`;
`training`, `inference`; `evaluation`, `plotting`; `serving`; and the command line in `cli`.
Importing `labkit` itself loads nothing heavy: import the module you need.
"""

__version__ = "0.1.0"
