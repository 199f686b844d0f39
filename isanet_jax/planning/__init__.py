"""What training steps and predictions need, before they run, for devices that are not attached."""
