"""Workers on other machines: what starts them, how to look at them, how to stop them."""
