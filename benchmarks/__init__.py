"""What the figures in README and docs come from. Each script prints ratios measured in one run."""
