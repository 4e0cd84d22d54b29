"""Other programs and libraries that read MIME, asked what files they find in a message.

Contract
    A reader gets a path a line on its standard input, and answers each with a line of JSON: a list of
    [base64 of a name, base64 of a content], one for each part or file that it found; either may be empty.
    What it cannot read is an empty list. An answer that does not come in two seconds counts as empty.
    Each reads as its authors meant it to: nothing is repaired here, and no fault of a reader's is an answer.
"""
