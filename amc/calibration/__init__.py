"""Statistics of layers from training images, streamed in bounded memory."""
