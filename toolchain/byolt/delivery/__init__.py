"""What leaves a run: the bundle, the images it is proven with, embeddings of a folder, and a bundle's speed."""
