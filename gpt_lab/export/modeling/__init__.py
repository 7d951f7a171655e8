"""What an exported modeling file holds beside the lab's model: transformers' classes around it, and stand-ins.

Nothing here runs in the lab: own_source.py writes it into the file, where the lab's registry and kernels are not.
"""
