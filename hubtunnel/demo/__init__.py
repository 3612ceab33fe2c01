"""`hubtunnel demo`: two hubs and two mail sinks on loopback, real mail through them, and a table of what was proved.

It needs the extra `demo` (aiosmtpd) and nothing else: no root, no configuration. Keys, configurations, recordings and
mail live in one temporary folder, which goes when the demo does. Everything that the demo claims is read off the
outside of two real daemons: what the sinks got, what went over the wire, what `hubtunnel status --json` says.
"""
