"""Speed against the peers: interleaved, as ratios, each beside the quality gate it had to pass."""
