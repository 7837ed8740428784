"""OpenAI's dialect, as its own API and compatible servers speak it: chat completions, embeddings, models.

Everything else (Responses, Assistants, files, batches, images, realtime, fine-tuning, ...) has no bound here: it
reads stored state, runs tools on the vendor's side, or bills later.
"""
