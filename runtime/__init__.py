"""The devices and the engines that run them; nothing in here knows the compiler."""
