"""How a clone is made: decided (plan), written down (journal), done and undone step by step (executor)."""
