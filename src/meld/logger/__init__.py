"""Where training metrics and results go while a run works: CSV, TensorBoard, Weights & Biases, or nowhere."""
