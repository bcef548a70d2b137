"""The listener's database: its tables, how it is opened, and how an older one is brought up to date; no queries."""
