"""gpt_lab: an experiment-tracking ablation lab for small GPT-like models."""
