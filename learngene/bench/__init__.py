"""Compare ways to begin a family of models: what is compared, trials, costs, tables, plots and a report."""
