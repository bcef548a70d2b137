"""What a PACS triggers: a listener that receives CT, a queue, a worker, and a sender of SR."""
