"""All doubt about files from strangers: limits, records, models, tensors."""
