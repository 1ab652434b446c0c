"""What only training the codec needs: data, losses, discriminators, the loop and its recipes."""
