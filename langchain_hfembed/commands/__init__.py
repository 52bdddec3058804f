"""The commands of `hfembed`, one a file. What takes long to import is imported where it is used."""
