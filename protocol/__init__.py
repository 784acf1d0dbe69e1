"""The ground floor: what the three roles say to each other and how the bytes travel."""
