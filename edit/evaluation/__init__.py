"""How forgetting is measured: metrics, attacks, and the evidence that they leave."""
