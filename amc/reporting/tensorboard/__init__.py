"""What TensorBoard shows of a run: groups that sort, pictures, settings beside results."""
