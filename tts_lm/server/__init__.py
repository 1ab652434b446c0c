"""HTTP server with OpenAI's speech interface, and a demo page. Both need optional packages."""
