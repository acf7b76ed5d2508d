"""One prompt seen clean and changed: views of it, reruns from an edited stream, what heads read."""
