"""The helper process, which may import torch and pandas: how it is kept, and what it is asked to do."""
