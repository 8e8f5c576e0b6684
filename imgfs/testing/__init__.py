"""What the author of a back-end needs: contracts, fakes, faults."""
