"""What `import gpt_lab as lab` offers: one file for each function, each a view of what the lab keeps on disk."""
