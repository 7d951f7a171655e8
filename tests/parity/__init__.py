"""Parts held against implementations that nobody here wrote: a module of cases for each group."""
