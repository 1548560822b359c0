"""What is measured: metrics, protocols, intervals, stored predictions, the test ledger."""
