"""The sandbox: its tiers, the process inside it and the wire between."""
