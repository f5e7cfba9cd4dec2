"""From facts about labels to units (what lives or dies together) and groups (units that touch the same weights)."""
