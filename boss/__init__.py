"""The Boss: the heavy network, its feed of filtered batches, and its reports."""
