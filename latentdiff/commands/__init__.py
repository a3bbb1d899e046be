"""One plain function a command: where the rooms of the floors below meet."""
