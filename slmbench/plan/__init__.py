"""What will be measured."""
