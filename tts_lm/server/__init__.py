"""The front door: an OpenAI-compatible server and a page, each an optional extra. Nothing else imports from here."""
