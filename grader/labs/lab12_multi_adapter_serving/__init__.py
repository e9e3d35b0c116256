"""Lab 12: many adapters over one base model, from their bytes to an endpoint."""
