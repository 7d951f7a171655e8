"""The sweep's ledger: one sqlite file, and who works on what."""
