"""Parts of a report beyond the table of arms."""
