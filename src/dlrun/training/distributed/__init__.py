"""Training over several processes: the process group, data parallel and sharded weights."""
