"""The AR, NAR and reranker models."""
