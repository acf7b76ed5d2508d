"""Files of a model: their formats, tensors read one at a time, processed weights staged."""
