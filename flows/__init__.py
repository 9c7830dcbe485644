"""Order, the approval gate and reports; no HTTP and no Cloud KMS calls of their own."""
