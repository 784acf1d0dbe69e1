"""What the text workloads share: sentence pairs and their sources, subwords, features, models, scores."""
