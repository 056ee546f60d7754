"""The commands behind the entry points, a room for each. Tools may import all other rooms; nothing imports them."""
