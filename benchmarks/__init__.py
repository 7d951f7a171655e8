"""Scripts that measure the lab, and what they share. README.md says what each found."""
