"""Choose the sentences from which emotion prompts are learnt."""
