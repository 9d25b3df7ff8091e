"""The commands of `lab`, one file a group. Modules here import nothing heavy at the top: `lab --help` imports them all."""
