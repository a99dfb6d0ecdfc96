"""Starting runs elsewhere: pods, clusters, nodes with several GPUs, sweeps."""
