"""Keep results honest: gates over a run, and the ledger of looks at the test set."""
