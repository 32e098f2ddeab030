"""What each command of jepa-export does."""
