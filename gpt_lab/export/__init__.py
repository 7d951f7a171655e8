"""Runs as other programs read them: folders in Hugging Face's form, gguf files. Each is opened and compared first."""
