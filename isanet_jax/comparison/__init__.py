"""Methods compared over folds and seeds: runs, statistics, tables and figures."""
