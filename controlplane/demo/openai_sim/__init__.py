"""A simulation of OpenAI's chat completions, embeddings and models."""
