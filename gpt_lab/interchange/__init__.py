"""Models of the lab as models of Hugging Face's families and back: configurations and weights, by name and by tensor.

A family is a file's table: which parts it has, what its configuration says, where each tensor is (family.py). `to_hf`
and `from_hf` (convert.py) look through them. Nothing here imports transformers but `opened`.
"""
