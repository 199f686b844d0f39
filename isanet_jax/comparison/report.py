def write_comparison(workdir, comparison, cells, failures): print("todo", failures)
