"""The protocol core: bytes and a time in; bytes, events and a deadline out.

Nothing here opens a socket, reads a clock, draws a random number or writes a log line. docs/PROTOCOL.md is
normative; its step numbers (HS1, RT3, RS5 …) stand beside the code that carries them out.
"""
