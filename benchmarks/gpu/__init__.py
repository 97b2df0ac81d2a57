"""What ``benchmarks/gpu.sh`` runs: one module per part, and what the parts share."""
