"""Out into the world: a model in the formats of other programs, a file for each. Nothing of it is imported by `import minidetr`."""
