"""Model families behind one protocol: fit, predict, to_onnx, card; how they are judged, and what a release is."""
