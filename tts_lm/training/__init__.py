"""Training of the AR model, the NAR model and the reranker."""
