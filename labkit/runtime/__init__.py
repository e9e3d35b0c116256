"""Devices, seeds, timing, memory, cache, progress, records: what every layer above stands on."""
