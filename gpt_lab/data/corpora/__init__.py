"""Where documents come from: files, the Hugging Face Hub, packages that every machine has."""
