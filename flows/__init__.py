"""The flows: order of the tasks, approval and reports; they call no outside service directly."""
