"""Your own data: from an annotation export to a data set to train on."""
