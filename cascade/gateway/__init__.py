"""The gateway: policies behind the HTTP shapes that OpenAI's and Anthropic's clients speak. `model` is the policy's name."""
