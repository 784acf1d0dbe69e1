"""The Assistant: learns from the Boss's losses which instances still teach it something, and scores windows."""
