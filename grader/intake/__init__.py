"""Taking in what students handed in, from folders and archives that nobody vouches for."""
