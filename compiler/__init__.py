"""From the text of a specification to a checked plan: parser, checker, lowering, backends."""
